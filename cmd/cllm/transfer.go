package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/types/model"
	"github.com/spf13/cobra"
)

func pullCommand(c *console) *cobra.Command {
	var insecure bool
	cmd := &cobra.Command{
		Use:   "pull MODEL",
		Short: "Pull a model from a registry",
		Args:  cobra.ExactArgs(1),
		RunE: withDaemon(func(cmd *cobra.Command, client *api.Client, args []string) error {
			return pull(cmd.Context(), c, client, args[0], insecure)
		}),
	}
	cmd.Flags().BoolVar(&insecure, "insecure", false, "Use an insecure registry")
	return cmd
}

// pull has the daemon fetch a model, and shows how far it is.
func pull(ctx context.Context, c *console, client *api.Client, name string, insecure bool) error {
	d := newDisplay(c.err)
	defer d.finish()
	watch := &transfer{display: d, label: func(r api.ProgressResponse) string {
		return "pulling " + shortDigest(r.Digest) + ":"
	}}
	err := client.Pull(ctx, &api.PullRequest{Model: name, Insecure: insecure}, func(r api.ProgressResponse) error {
		// The daemon announces every layer before it begins with the first: no
		// row of empty bars for those.
		if r.Digest != "" && r.Completed == 0 {
			return nil
		}
		return watch.show(r)
	})
	return watch.ended(ctx, err)
}

func pushCommand(c *console) *cobra.Command {
	var insecure bool
	cmd := &cobra.Command{
		Use:   "push MODEL",
		Short: "Push a model to a registry",
		Args:  cobra.ExactArgs(1),
		RunE: withDaemon(func(cmd *cobra.Command, client *api.Client, args []string) error {
			return push(cmd.Context(), c, client, args[0], insecure)
		}),
	}
	cmd.Flags().BoolVar(&insecure, "insecure", false, "Use an insecure registry")
	return cmd
}

func push(ctx context.Context, c *console, client *api.Client, name string, insecure bool) error {
	full := model.ParseName(name)
	public := strings.HasSuffix(full.Host, ".ollama.ai") || strings.HasSuffix(full.Host, ".ollama.com")
	if public {
		signin, err := signinNeeded(ctx, client)
		if err != nil {
			return err
		}
		if signin != nil {
			fmt.Fprint(c.out, "You need to be signed in to push models to ollama.com.\n\n")
			printSignIn(c, signin.SigninURL)
			return nil
		}
	}

	d := newDisplay(c.err)
	defer d.finish()
	watch := &transfer{display: d, label: func(r api.ProgressResponse) string {
		if r.Status != "" {
			return r.Status
		}
		return "pushing " + shortDigest(r.Digest) + "..."
	}}
	err := watch.ended(ctx, client.Push(ctx, &api.PushRequest{Model: name, Insecure: insecure}, watch.show))
	if err != nil {
		text := strings.ToLower(err.Error())
		if strings.Contains(text, "access denied") || strings.Contains(text, "unauthorized") {
			return errors.New("you are not authorized to push to this namespace, create the model under a namespace you own")
		}
		return err
	}
	d.finish()

	where := full.String()
	if public {
		where = "https://ollama.com/" + strings.TrimSuffix(full.DisplayShortest(), ":latest")
	}
	fmt.Fprintf(c.out, "\nYou can find your model at:\n\n\t%s\n", where)
	return nil
}

// signinNeeded returns the daemon's refusal if it is not signed in to ollama.com.
// A daemon without accounts names no page to sign in at, or answers 404: then the
// registry decides.
func signinNeeded(ctx context.Context, client *api.Client) (*api.AuthorizationError, error) {
	_, err := client.Whoami(ctx)
	var unauthorized api.AuthorizationError
	var status api.StatusError
	switch {
	case errors.As(err, &unauthorized) && unauthorized.StatusCode == http.StatusUnauthorized:
		if unauthorized.SigninURL == "" {
			return nil, nil
		}
		return &unauthorized, nil
	case errors.As(err, &status) && status.StatusCode == http.StatusNotFound:
		return nil, nil
	}
	return nil, err
}

// transfer shows the progress lines of a pull, push or create, and remembers the
// last status.
type transfer struct {
	display *display
	label   func(api.ProgressResponse) string // text of a new bar
	last    string
}

func (t *transfer) show(r api.ProgressResponse) error {
	if r.Digest != "" {
		t.display.bar(r.Digest, t.label(r), r.Completed, r.Total)
		return nil
	}
	if r.Status != t.last {
		t.last = r.Status
		t.display.status(r.Status)
	}
	return nil
}

// ended is the outcome, err being what the client library returned. That returns
// nil also when the connection broke, so only the daemon's word counts.
func (t *transfer) ended(ctx context.Context, err error) error {
	switch {
	case err != nil:
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case t.last != "success":
		return errors.New("the connection to the server was lost before it reported success; try again")
	}
	return nil
}
