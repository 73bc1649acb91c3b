package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/readline"
)

const fence = `"""`

// lineReader is where a session's lines come from: a terminal, or a test.
type lineReader interface {
	// readLine returns the next line; io.EOF when the user leaves (Ctrl-D),
	// readline.ErrInterrupt for Ctrl-C, readline.ErrEditPrompt with the text so
	// far when the user wants an editor.
	readLine(ctx context.Context) (string, error)
	// continued asks for the next line with the prompt of a message's later lines.
	continued()
	// pasting tells whether the line just read came from the middle of a paste.
	pasting() bool
	// prefill puts text into the next line.
	prefill(text string)
	// keepHistory tells whether lines are written to the history file.
	keepHistory(bool)
}

// block is the text that """ has opened.
type block int

const (
	noBlock block = iota
	messageBlock
	systemBlock
)

// session is a conversation: its lines come in order and one at a time, so one
// goroutine owns it.
type session struct {
	c      *console
	client *api.Client
	lines  lineReader

	opts        runOptions
	thinkChosen bool          // the user, not the model, decided about thinking
	inherited   []api.Message // the model's own; the daemon puts them first
	system      string        // set by the user, "" for the model's own
	messages    []api.Message

	block   block
	pending strings.Builder // the lines of a message that is not finished

	// interrupts brings Ctrl-C while the session works. Reading a line has its own.
	interrupts chan os.Signal
}

// errLeave ends a session.
var errLeave = errors.New("leave")

// converse loads the model and talks with the user until they leave. Ctrl-C while
// it loads ends the command; later it only stops the answer.
func converse(ctx context.Context, c *console, client *api.Client, opts runOptions, info *api.ShowResponse) error {
	thinkChosen := opts.think != nil
	if _, err := setResident(ctx, c, client, opts); err != nil {
		return err
	}
	s := &session{
		c: c, client: client, opts: opts, thinkChosen: thinkChosen,
		inherited: info.Messages, interrupts: make(chan os.Signal, 1),
	}
	if info.RemoteHost != "" {
		fmt.Fprintf(c.err, "Connecting to '%s' on '%s'\n", info.RemoteModel, info.RemoteHost)
	}
	s.replay()

	lines, err := openTerminal()
	if err != nil {
		return err
	}
	s.lines = lines
	fmt.Fprint(c.out, readline.StartBracketedPaste)
	defer fmt.Fprint(c.out, readline.EndBracketedPaste)
	signal.Notify(s.interrupts, os.Interrupt)
	defer signal.Stop(s.interrupts)
	return s.run(c.session)
}

// replay prints the conversation that a saved session brings along.
func (s *session) replay() {
	for _, m := range s.inherited {
		switch m.Role {
		case "user":
			fmt.Fprintf(s.c.out, "%s%s\n", linePrompt, m.Content)
		case "assistant":
			a := newAnswer(s.c, s.opts)
			a.add("", m.Content, nil)
			a.end()
			fmt.Fprint(s.c.out, "\n\n")
		}
	}
}

// run reads and answers lines until the user leaves or ctx ends.
func (s *session) run(ctx context.Context) error {
	for {
		if s.block != noBlock {
			s.lines.continued()
		}
		line, err := s.lines.readLine(ctx)
		switch {
		case errors.Is(err, io.EOF):
			fmt.Fprintln(s.c.out)
			return nil
		case errors.Is(err, readline.ErrInterrupt):
			fmt.Fprintln(s.c.out, "\nUse Ctrl + d or /bye to exit.")
			s.block = noBlock
			s.pending.Reset()
			continue
		case errors.Is(err, readline.ErrEditPrompt):
			s.editLine(ctx, line)
			continue
		case err != nil:
			return err
		}

		err = s.interruptibly(ctx, func(ctx context.Context) error { return s.take(ctx, line) })
		switch {
		case errors.Is(err, errLeave):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.Canceled):
			fmt.Fprintln(s.c.out)
		case err != nil:
			// One failed request must not cost the user the conversation.
			fmt.Fprintf(s.c.out, "error: %v\n", explain(err))
		}
	}
}

// interruptibly calls work with a context that Ctrl-C ends.
func (s *session) interruptibly(ctx context.Context, work func(context.Context) error) error {
	select {
	case <-s.interrupts: // came when nothing was being done
	default:
	}
	ctx, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-s.interrupts:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := work(ctx)
	cancel()
	<-watched
	return err
}

func (s *session) editLine(ctx context.Context, text string) {
	s.pending.Reset()
	edited, err := edit(ctx, s.c, text)
	if err != nil {
		fmt.Fprintf(s.c.err, "error: %v\n", err)
		return
	}
	if strings.TrimSpace(edited) != "" {
		s.lines.prefill(edited)
	}
}

// take acts on one line: part of a message, a command, or a question.
func (s *session) take(ctx context.Context, line string) error {
	if s.block != noBlock {
		return s.continueBlock(ctx, line)
	}
	if rest, ok := strings.CutPrefix(line, fence); ok && s.pending.Len() == 0 {
		s.block = messageBlock
		return s.continueBlock(ctx, rest)
	}
	if s.lines.pasting() {
		s.pending.WriteString(line + "\n")
		return nil
	}
	if s.pending.Len() == 0 && strings.HasPrefix(line, "/") && !(s.opts.vision && startsWithImage(line)) {
		return s.command(ctx, line)
	}
	s.pending.WriteString(line)
	return s.ask(ctx, s.takePending())
}

// continueBlock adds a line to the open block, and uses the block when the line
// closes it.
func (s *session) continueBlock(ctx context.Context, line string) error {
	line, closed := strings.CutSuffix(line, fence)
	s.pending.WriteString(line)
	if !closed {
		s.pending.WriteByte('\n')
		return nil
	}
	kind := s.block
	s.block = noBlock
	if kind == systemBlock {
		s.setSystem(s.takePending())
		return nil
	}
	return s.ask(ctx, s.takePending())
}

func (s *session) takePending() string {
	text := s.pending.String()
	s.pending.Reset()
	return text
}

// ask sends the conversation with one more message, prints the answer, and keeps
// both. A question that failed is dropped, so that asking again does not double
// it; an interrupted answer is kept as far as it came.
func (s *session) ask(ctx context.Context, text string) error {
	if text == "" {
		return nil
	}
	question := api.Message{Role: "user", Content: text}
	if s.opts.vision {
		var err error
		if question.Content, question.Images, err = takeImages(s.c.err, text); err != nil {
			return err
		}
	}
	a := newAnswer(s.c, s.opts)
	defer a.end()
	var last api.ChatResponse
	messages := append(s.messages[:len(s.messages):len(s.messages)], question)
	err := s.client.Chat(ctx, &api.ChatRequest{
		Model: s.opts.model, Messages: messages, Format: s.opts.rawFormat(),
		Options: s.opts.options, Think: s.opts.think, KeepAlive: s.opts.keepAlive,
	}, func(r api.ChatResponse) error {
		last = r
		a.add(r.Message.Thinking, r.Message.Content, r.Message.ToolCalls)
		return nil
	})
	a.end()
	if err == nil && !last.Done && ctx.Err() == nil {
		err = errCutOff
	}
	if ctx.Err() != nil && a.thoughts.Len()+a.text.Len() == 0 {
		return ctx.Err()
	}
	if err != nil && ctx.Err() == nil {
		if strings.Contains(err.Error(), "upstream error") {
			return errors.New("an error occurred while processing your message, please try again")
		}
		return err
	}

	fmt.Fprint(s.c.out, "\n\n")
	s.messages = append(messages, api.Message{Role: "assistant", Content: a.text.String(), Thinking: a.thoughts.String()})
	if s.opts.verbose {
		last.Summary()
	}
	return nil
}

// setSystem gives the conversation a system message from here on.
func (s *session) setSystem(text string) {
	s.system = text
	m := api.Message{Role: "system", Content: text}
	if n := len(s.messages); n > 0 && s.messages[n-1].Role == "system" {
		s.messages[n-1] = m
	} else {
		s.messages = append(s.messages, m)
	}
	fmt.Fprintln(s.c.out, "Set system message.")
}
