package main

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/ollama/ollama/api"
	"github.com/spf13/cobra"
)

// accountCommands are signin and signout, and the names that they had before. They
// are for an Ollama at OLLAMA_HOST: this daemon has no accounts.
func accountCommands(c *console) []*cobra.Command {
	command := func(use, short string, hidden bool, run clientRun) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Hidden: hidden, Args: cobra.NoArgs, RunE: withDaemon(run)}
	}
	in, out := signIn(c), signOut(c)
	return []*cobra.Command{
		command("signin", "Sign in to ollama.com", false, in),
		command("login", "Sign in to ollama.com", true, in),
		command("signout", "Sign out from ollama.com", false, out),
		command("logout", "Sign out from ollama.com", true, out),
	}
}

func signIn(c *console) clientRun {
	return func(cmd *cobra.Command, client *api.Client, _ []string) error {
		user, err := client.Whoami(cmd.Context())
		var refused api.AuthorizationError
		switch {
		case errors.As(err, &refused) && refused.SigninURL == "":
			return errors.New("this server has no accounts: it runs the models of its own folder, and none of ollama.com's cloud")
		case errors.As(err, &refused) && refused.StatusCode == http.StatusUnauthorized:
			fmt.Fprint(c.out, "You need to be signed in to Ollama to run Cloud models.\n\n")
			printSignIn(c, refused.SigninURL)
			return nil
		case err != nil:
			return err
		case user != nil && user.Name != "":
			fmt.Fprintf(c.out, "You are already signed in as user '%s'\n\n", user.Name)
		}
		return nil
	}
}

func signOut(c *console) clientRun {
	return func(cmd *cobra.Command, client *api.Client, _ []string) error {
		err := client.Signout(cmd.Context())
		var refused api.AuthorizationError
		switch {
		case errors.As(err, &refused) && refused.StatusCode == http.StatusUnauthorized:
			fmt.Fprint(c.out, "You are not signed in to ollama.com\n\n")
			return nil
		case err != nil:
			return err
		}
		fmt.Fprint(c.out, "You have signed out of ollama.com\n\n")
		return nil
	}
}

// printSignIn says where to sign in.
func printSignIn(c *console, url string) {
	fmt.Fprintf(c.out, "If your browser did not open, navigate to:\n    %s\n\n", url)
}
