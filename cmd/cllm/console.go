package main

import (
	"context"
	"io"
	"os"

	"golang.org/x/term"
)

// console is where a command reads and writes. Tests give it buffers.
type console struct {
	in       io.Reader
	out, err io.Writer

	// session ends with SIGTERM only. The interactive session uses it in place
	// of the command's context, which Ctrl-C ends.
	session context.Context
}

// isTerminal tells whether a reader or writer is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// columns returns the width of the terminal behind w, 0 if there is none.
func columns(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}
