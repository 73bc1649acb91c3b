// Command cllm is the daemon and its client in one binary.
//
// Every command but serve is a client: it speaks HTTP to the daemon at
// OLLAMA_HOST through Ollama's own api.Client and touches neither the model
// folder nor the engine, so it works against an Ollama as well.
//
// A command ends with its context: SIGINT and SIGTERM cancel it, and the process
// then exits as if the signal had killed it (130, 143). The interactive session
// of run lives through SIGINT, which only stops the answer being given.
// Escape codes go to terminals only.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	ollama "github.com/ollama/ollama/version"
)

// version is the version of Ollama whose API and commands this binary
// reproduces. Clients compare it to decide which features they may use.
const version = "0.17.4"

const (
	exitFailed      = 1
	exitInterrupted = 128 + int(syscall.SIGINT)
	exitTerminated  = 128 + int(syscall.SIGTERM)
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run runs one command line and returns the exit code of the process.
func run(args []string, in io.Reader, out, errs io.Writer) int {
	ollama.Version = version // names the client in the User-Agent header

	session, stopSession := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stopSession()
	ctx, stop := signal.NotifyContext(session, os.Interrupt)
	defer stop()
	// A second signal kills a command that is slow to end.
	defer context.AfterFunc(session, stopSession)()
	defer context.AfterFunc(ctx, stop)()

	root := newRoot(&console{in: in, out: out, err: errs, session: session})
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, context.Canceled) && session.Err() != nil:
		return exitTerminated
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return exitInterrupted
	}
	fmt.Fprintln(errs, "Error:", explain(err))
	return exitFailed
}
