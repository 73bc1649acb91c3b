package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/ollama/ollama/envconfig"
)

// edit lets the user work on text in the editor of OLLAMA_EDITOR, VISUAL or
// EDITOR, vi if none is set, and returns what was saved.
func edit(ctx context.Context, c *console, text string) (string, error) {
	command := strings.Fields(cmp.Or(envconfig.Editor(), os.Getenv("VISUAL"), os.Getenv("EDITOR"), "vi"))
	if len(command) == 0 {
		command = []string{"vi"}
	}
	if _, err := exec.LookPath(command[0]); err != nil {
		return "", fmt.Errorf("editor %q not found, set OLLAMA_EDITOR to the path of your preferred editor", command[0])
	}
	f, err := os.CreateTemp("", "cllm-prompt-*.txt")
	if err != nil {
		return "", fmt.Errorf("no file for the editor: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return "", fmt.Errorf("no file for the editor: %w", err)
	}

	editor := exec.CommandContext(ctx, command[0], append(command[1:], f.Name())...)
	editor.Stdin, editor.Stdout, editor.Stderr = c.in, c.out, c.err
	if err := editor.Run(); err != nil {
		return "", fmt.Errorf("the editor failed, the text is unchanged: %w", err)
	}
	saved, err := os.ReadFile(f.Name())
	if err != nil {
		return "", fmt.Errorf("reading what the editor saved: %w", err)
	}
	return strings.TrimRight(string(saved), "\n"), nil
}
