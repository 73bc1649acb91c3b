package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/readline"
)

// errCutOff: the client library takes the end of a stream for the end of the
// answer, but every answer ends with a line that says done.
var errCutOff = errors.New("the answer is incomplete: the connection to the server was lost")

// answer prints one answer as it streams in: a spinner until the first text, then
// what the model thinks, then what it says.
type answer struct {
	c     *console
	wait  *display
	wrap  wrapper
	plain bool // no colours
	hide  bool // thinking is not shown

	thinking       bool // the block of thoughts is open
	thoughts, text strings.Builder
}

// newAnswer begins to wait for an answer. The caller ends it with end.
func newAnswer(c *console, opts runOptions) *answer {
	a := &answer{c: c, wait: newDisplay(c.err), plain: !isTerminal(c.out), hide: opts.hideThinking}
	a.wrap = wrapper{out: c.out, width: func() int {
		if !opts.wrap {
			return 0
		}
		return columns(c.out)
	}}
	a.wait.status("")
	return a
}

// add prints the next piece of the answer.
func (a *answer) add(thoughts, text string, calls []api.ToolCall) {
	a.thoughts.WriteString(thoughts)
	a.text.WriteString(text)
	if text == "" && len(calls) == 0 && (thoughts == "" || a.hide) {
		return
	}
	a.wait.clear()
	if thoughts != "" && !a.hide {
		a.openThoughts()
		a.wrap.write(thoughts)
	}
	if text != "" || len(calls) > 0 {
		a.closeThoughts()
		a.wrap.write(text)
	}
	for _, call := range calls {
		a.reportCall(call)
	}
}

// end takes the spinner and the colour of an answer that stopped short off the
// screen. It may be called twice.
func (a *answer) end() {
	a.wait.clear()
	if a.thinking {
		a.thinking = false
		a.paint(readline.ColorDefault)
	}
}

func (a *answer) openThoughts() {
	if a.thinking {
		return
	}
	a.thinking = true
	a.paint(readline.ColorGrey + readline.ColorBold)
	fmt.Fprintln(a.c.out, "Thinking...")
	a.paint(readline.ColorDefault + readline.ColorGrey)
}

func (a *answer) closeThoughts() {
	if !a.thinking {
		return
	}
	a.thinking = false
	if !strings.HasSuffix(a.thoughts.String(), "\n") {
		fmt.Fprintln(a.c.out)
	}
	a.paint(readline.ColorGrey + readline.ColorBold)
	fmt.Fprint(a.c.out, "...done thinking.\n\n")
	a.paint(readline.ColorDefault)
	a.wrap.column, a.wrap.word = 0, ""
}

// reportCall says that the model called a function: the command offers none.
func (a *answer) reportCall(call api.ToolCall) {
	arguments, err := json.Marshal(call.Function.Arguments)
	if err != nil {
		arguments = []byte("?")
	}
	explain, value := "", ""
	if !a.plain {
		explain, value = readline.ColorGrey+readline.ColorBold, readline.ColorDefault
	}
	fmt.Fprintf(a.c.out, "%s  Model called a non-existent function '%s()' with arguments: %s%s",
		explain, value+call.Function.Name+explain, value+string(arguments)+explain, value)
}

// paint writes a colour code where colours are shown.
func (a *answer) paint(code string) {
	if !a.plain {
		fmt.Fprint(a.c.out, code)
	}
}
