package main

import (
	"context"
	"fmt"
	"os"

	"github.com/ollama/ollama/envconfig"
	"github.com/ollama/ollama/readline"
	"golang.org/x/term"
)

// Both prompts have one width.
const (
	linePrompt  = ">>> "
	laterPrompt = "... "
)

// terminalLines reads lines from the process's terminal through Ollama's line
// editor, with its history in ~/.ollama/history.
type terminalLines struct {
	editor *readline.Instance
	cooked *term.State // the terminal as it was
}

func openTerminal() (*terminalLines, error) {
	cooked, err := term.GetState(int(os.Stdin.Fd()))
	if err != nil {
		return nil, fmt.Errorf("reading the terminal's settings: %w", err)
	}
	editor, err := readline.New(readline.Prompt{
		Prompt:         linePrompt,
		AltPrompt:      laterPrompt,
		Placeholder:    "Send a message (/? for help)",
		AltPlaceholder: "Press Enter to send",
	})
	if err != nil {
		return nil, fmt.Errorf("opening the history in ~/.ollama (HOME must name a folder that can be written): %w", err)
	}
	if envconfig.NoHistory() {
		editor.HistoryDisable()
	}
	return &terminalLines{editor: editor, cooked: cooked}, nil
}

func (t *terminalLines) readLine(ctx context.Context) (string, error) {
	if columns(os.Stdout) == len(linePrompt) {
		// The line editor divides by the cells that the prompt leaves.
		return "", fmt.Errorf("the terminal has %d columns, all taken by the prompt; make it wider", len(linePrompt))
	}
	type read struct {
		line string
		err  error
	}
	// A read from a terminal cannot be stopped. When ctx ends, which is the end of
	// the process, it is left behind and the terminal put right in its place.
	done := make(chan read, 1)
	go func() {
		line, err := t.editor.Readline()
		done <- read{line, err}
	}()
	select {
	case r := <-done:
		return r.line, r.err
	case <-ctx.Done():
		_ = term.Restore(int(os.Stdin.Fd()), t.cooked)
		return "", ctx.Err()
	}
}

func (t *terminalLines) continued()            { t.editor.Prompt.UseAlt = true }
func (t *terminalLines) pasting() bool         { return t.editor.Pasting }
func (t *terminalLines) prefill(text string)   { t.editor.Prefill = text }
func (t *terminalLines) keepHistory(keep bool) { t.editor.History.Enabled = keep }
