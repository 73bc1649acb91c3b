package main

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/envconfig"
	"github.com/spf13/cobra"
)

var errNoDaemon = errors.New("could not connect to ollama server, run 'cllm serve' to start it")

// newRoot makes the command tree. Its texts, flags and order are Ollama's, for
// scripts and fingers that know them; bench, which Ollama has not, comes last.
func newRoot(c *console) *cobra.Command {
	cobra.EnableCommandSorting = false
	var showVersion bool
	root := &cobra.Command{
		Use:               "cllm",
		Short:             "Large language models, many requests at a time",
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if showVersion {
				return printVersion(cmd.Context(), c)
			}
			return cmd.Help()
		},
	}
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)
	root.Flags().BoolVarP(&showVersion, "version", "v", false, "Show version information")

	run := runCommand(c)
	clients := []*cobra.Command{createCommand(c), showCommand(c), run, stopCommand(c), pullCommand(c), pushCommand(c)}
	clients = append(clients, accountCommands(c)...)
	clients = append(clients, listCommand(c), psCommand(c), copyCommand(c), removeCommand(c), benchCommand(c))
	env := envconfig.AsMap()
	for _, cmd := range clients {
		if cmd == run {
			documentEnv(cmd, env["OLLAMA_EDITOR"], env["OLLAMA_HOST"], env["OLLAMA_NOHISTORY"])
		} else {
			documentEnv(cmd, env["OLLAMA_HOST"])
		}
	}
	root.AddCommand(serveCommand())
	root.AddCommand(clients...)
	return root
}

// documentEnv adds environment variables to a command's help.
func documentEnv(cmd *cobra.Command, vars ...envconfig.EnvVar) {
	var b strings.Builder
	b.WriteString("\nEnvironment Variables:\n")
	for _, v := range vars {
		fmt.Fprintf(&b, "      %-24s   %s\n", v.Name, v.Description)
	}
	cmd.SetUsageTemplate(cmd.UsageTemplate() + b.String())
}

// clientRun is the body of a client command; the daemon has answered.
type clientRun func(cmd *cobra.Command, client *api.Client, args []string) error

// withDaemon checks that the daemon answers before it runs a client command, so
// that each of them fails the same way without one.
func withDaemon(run clientRun) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		client, err := api.ClientFromEnvironment()
		if err != nil {
			return err
		}
		if err := client.Heartbeat(cmd.Context()); err != nil {
			return err
		}
		return run(cmd, client, args)
	}
}

// explain turns an error of the client library into the sentence users know.
func explain(err error) error {
	var unauthorized api.AuthorizationError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return errNoDaemon
	case errors.As(err, &unauthorized) && unauthorized.SigninURL != "":
		return fmt.Errorf("unauthorized: sign in to ollama.com at %s and try again", unauthorized.SigninURL)
	case notOffered(err):
		return errors.New("the server does not offer this (404 page not found); update it, or point OLLAMA_HOST at one that does")
	}
	return err
}

// notOffered tells whether the server does not know the route that was asked.
func notOffered(err error) bool {
	var status api.StatusError
	return errors.As(err, &status) && status.StatusCode == http.StatusNotFound &&
		status.ErrorMessage == "404 page not found"
}

// isNotFound tells whether the daemon said that a model does not exist.
func isNotFound(err error) bool {
	return err != nil && strings.Contains(strings.ToLower(err.Error()), "not found")
}
