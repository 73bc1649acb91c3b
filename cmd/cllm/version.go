package main

import (
	"context"
	"fmt"

	"github.com/ollama/ollama/api"
)

// printVersion prints the daemon's version, and the client's where it differs.
// Without a daemon that is a warning, not a failure.
func printVersion(ctx context.Context, c *console) error {
	client, err := api.ClientFromEnvironment()
	if err != nil {
		return err
	}
	served, err := client.Version(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		fmt.Fprintln(c.out, "Warning: could not connect to a running cllm instance")
	}
	if served != "" {
		fmt.Fprintf(c.out, "cllm version is %s\n", served)
	}
	if served != version {
		fmt.Fprintf(c.out, "Warning: client version is %s\n", version)
	}
	return nil
}
