package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/readline"
)

// script plays the user: its entries are lines, or errors that a line reader
// returns. After the last one the user leaves with Ctrl-D.
type script struct {
	entries []any

	pasted    map[string]bool // lines that come from the middle of a paste
	last      string
	later     []string // lines that were read with the prompt of later lines
	next      bool
	prefilled []string
	history   []bool
}

// edited stands for Ctrl-G after some text.
type edited string

func (s *script) readLine(context.Context) (string, error) {
	wasLater := s.next
	s.next = false
	if len(s.entries) == 0 {
		return "", io.EOF
	}
	entry := s.entries[0]
	s.entries = s.entries[1:]
	switch entry := entry.(type) {
	case error:
		return "", entry
	case edited:
		return string(entry), readline.ErrEditPrompt
	}
	s.last = entry.(string)
	if wasLater {
		s.later = append(s.later, s.last)
	}
	return s.last, nil
}

func (s *script) continued()            { s.next = true }
func (s *script) pasting() bool         { return s.pasted[s.last] }
func (s *script) prefill(text string)   { s.prefilled = append(s.prefilled, text) }
func (s *script) keepHistory(keep bool) { s.history = append(s.history, keep) }

// talk runs a session over a script and returns it with what was printed.
func talk(t *testing.T, lines *script, change ...func(*session)) (s *session, out, errs string) {
	t.Helper()
	c, outs, notes := testConsole()
	client, err := api.ClientFromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	s = &session{
		c: c, client: client, lines: lines, interrupts: make(chan os.Signal, 1),
		opts: runOptions{model: "m", wrap: true, options: map[string]any{}},
	}
	for _, f := range change {
		f(s)
	}
	if err := s.run(t.Context()); err != nil {
		t.Fatalf("the session ended with %v", err)
	}
	return s, outs.String(), notes.String()
}

// echo answers a chat with the messages it was sent, one per line.
func echo(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	fmt.Fprintln(w, `{"message":{"role":"assistant","content":"an"},"done":false}`)
	fmt.Fprintln(w, `{"message":{"role":"assistant","content":"swer"},"done":false}`)
	fmt.Fprintln(w, `{"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop"}`)
}

// chats returns the messages of each chat request, role and content in one string.
func (d *fakeDaemon) chats() [][]string {
	var all [][]string
	for _, body := range d.asked("POST /api/chat") {
		var req api.ChatRequest
		if err := json.Unmarshal([]byte(body), &req); err != nil {
			d.t.Fatal(err)
		}
		var messages []string
		for _, m := range req.Messages {
			messages = append(messages, m.Role+": "+m.Content)
		}
		all = append(all, messages)
	}
	return all
}

func wantEqual[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestSessionSendsTheWholeConversation(t *testing.T) {
	d := newDaemon(t, map[string]http.HandlerFunc{"POST /api/chat": echo})
	_, out, _ := talk(t, &script{entries: []any{"hello", "", "again"}})
	wantEqual(t, "output", out, "answer\n\nanswer\n\n\n")
	wantEqual(t, "chats", d.chats(), [][]string{
		{"user: hello"}, {"user: hello", "assistant: answer", "user: again"},
	})
}

func TestSessionTakesMessagesOfSeveralLines(t *testing.T) {
	tests := map[string]struct {
		lines []any
		later []string
		want  [][]string
	}{
		"fenced":         {[]any{`"""one`, "/bye is text", `three"""`}, []string{"/bye is text", `three"""`}, [][]string{{"user: one\n/bye is text\nthree"}}},
		"fences alone":   {[]any{`"""`, "one", `"""`}, []string{"one", `"""`}, [][]string{{"user: \none\n"}}},
		"on one line":    {[]any{`"""one"""`}, nil, [][]string{{"user: one"}}},
		"empty":          {[]any{`""""""`}, nil, nil},
		"interrupted":    {[]any{`"""one`, readline.ErrInterrupt, "two"}, nil, [][]string{{"user: two"}}},
		"never finished": {[]any{`"""one`, "two"}, []string{"two"}, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t, map[string]http.HandlerFunc{"POST /api/chat": echo})
			lines := &script{entries: test.lines}
			talk(t, lines)
			wantEqual(t, "chats", d.chats(), test.want)
			wantEqual(t, "lines with the second prompt", lines.later, test.later)
		})
	}
}

func TestSessionTakesAPasteForOneMessage(t *testing.T) {
	d := newDaemon(t, map[string]http.HandlerFunc{"POST /api/chat": echo})
	talk(t, &script{entries: []any{"one", "/two", "/three"}, pasted: map[string]bool{"one": true, "/two": true}})
	wantEqual(t, "chats", d.chats(), [][]string{{"user: one\n/two\n/three"}})
}

func TestSessionLeavesOnByeExitAndCtrlD(t *testing.T) {
	newDaemon(t, nil)
	for _, last := range []any{"/bye", "/exit", "/bye now", io.EOF} {
		lines := &script{entries: []any{last, "never read"}}
		_, out, _ := talk(t, lines)
		if len(lines.entries) != 1 {
			t.Errorf("%v does not leave", last)
		}
		if want := map[bool]string{true: "\n"}[last == io.EOF]; out != want {
			t.Errorf("%v prints %q, want %q", last, out, want)
		}
	}
}

func TestSessionSurvivesFailedRequestsAndForgetsTheirQuestions(t *testing.T) {
	const busy = "server busy, please try again.  maximum pending requests exceeded"
	d := newDaemon(t, map[string]http.HandlerFunc{
		"POST /api/chat": inTurn(
			fails(503, `{"error":"`+busy+`"}`),
			streams(`{"message":{"role":"assistant","content":"half"},"done":false}`, `{"error":"trouble"}`),
			streams(`{"message":{"role":"assistant","content":"half"},"done":false}`),
			fails(502, `{"error":"upstream error"}`),
			echo,
		),
	})
	_, out, _ := talk(t, &script{entries: []any{"a", "b", "c", "d", "e"}})
	wantEqual(t, "output", out, "error: 503 Service Unavailable: "+busy+"\n"+
		"halferror: trouble\n"+
		"halferror: the answer is incomplete: the connection to the server was lost\n"+
		"error: an error occurred while processing your message, please try again\n"+
		"answer\n\n\n")
	wantEqual(t, "last chat", d.chats()[4], []string{"user: e"})
}

// onText calls do when text is written.
type onText struct {
	io.Writer
	text string
	do   func()
}

func (w onText) Write(p []byte) (int, error) {
	if string(p) == w.text {
		w.do()
	}
	return w.Writer.Write(p)
}

func TestCtrlCStopsTheAnswerAndKeepsWhatCame(t *testing.T) {
	d := newDaemon(t, map[string]http.HandlerFunc{"POST /api/chat": inTurn(
		func(w http.ResponseWriter, r *http.Request) {
			streams(`{"message":{"role":"assistant","content":"half"},"done":false}`)(w, r)
			<-r.Context().Done() // the client leaves
		},
		echo,
	)})
	_, out, _ := talk(t, &script{entries: []any{"a", "b"}}, func(s *session) {
		s.c.out = onText{s.c.out, "half", func() { s.interrupts <- os.Interrupt }}
	})
	wantEqual(t, "output", out, "half\n\nanswer\n\n\n")
	wantEqual(t, "chats", d.chats(), [][]string{{"user: a"}, {"user: a", "assistant: half", "user: b"}})
}

func TestCtrlCBeforeTheAnswerForgetsTheQuestion(t *testing.T) {
	s := make(chan *session, 1)
	d := newDaemon(t, map[string]http.HandlerFunc{"POST /api/chat": inTurn(
		func(_ http.ResponseWriter, r *http.Request) {
			(<-s).interrupts <- os.Interrupt
			<-r.Context().Done()
		},
		echo,
	)})
	_, out, _ := talk(t, &script{entries: []any{"a", "b"}}, func(made *session) { s <- made })
	wantEqual(t, "output", out, "\nanswer\n\n\n")
	wantEqual(t, "chats", d.chats(), [][]string{{"user: a"}, {"user: b"}})
}

func TestCtrlCAtThePromptLeavesNothingBehind(t *testing.T) {
	d := newDaemon(t, map[string]http.HandlerFunc{"POST /api/chat": echo})
	_, out, _ := talk(t, &script{entries: []any{readline.ErrInterrupt, "a"}}, func(s *session) {
		s.interrupts <- os.Interrupt // one that came while nothing was done
	})
	wantEqual(t, "output", out, "\nUse Ctrl + d or /bye to exit.\nanswer\n\n\n")
	wantEqual(t, "chats", d.chats(), [][]string{{"user: a"}})
}

func TestSessionEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	newDaemon(t, map[string]http.HandlerFunc{"POST /api/chat": func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}})
	c, _, _ := testConsole()
	client, err := api.ClientFromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	s := &session{c: c, client: client, lines: &script{entries: []any{"a", "b"}}, interrupts: make(chan os.Signal, 1)}
	if err := s.run(ctx); err != context.Canceled {
		t.Errorf("the session ended with %v", err)
	}
}

func TestSessionOpensTheEditorOnTheLine(t *testing.T) {
	newDaemon(t, nil)
	dir := t.TempDir()
	editor := filepath.Join(dir, "editor")
	if err := os.WriteFile(editor, []byte("#!/bin/sh\nprintf 'more\\n\\n' >> \"$2\"\ntest \"$1\" != fail\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		editor, text string
		want         []string
		errs         string
	}{
		"saved":   {editor + " -x", "some ", []string{"some more"}, ""},
		"fails":   {editor + " fail", "some ", nil, "error: the editor failed, the text is unchanged: exit status 1\n"},
		"missing": {"/no/such/editor", "some ", nil, "error: editor \"/no/such/editor\" not found, set OLLAMA_EDITOR to the path of your preferred editor\n"},
		"emptied": {"true", "", nil, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OLLAMA_EDITOR", test.editor)
			t.Setenv("TMPDIR", t.TempDir())
			lines := &script{entries: []any{edited(test.text)}}
			_, _, errs := talk(t, lines)
			wantEqual(t, "next line", lines.prefilled, test.want)
			wantEqual(t, "errors", errs, test.errs)
			left, err := os.ReadDir(os.TempDir())
			if err != nil || len(left) != 0 {
				t.Errorf("files left behind: %v %v", left, err)
			}
		})
	}
}

func TestSessionSendsImagesAsImages(t *testing.T) {
	d := newDaemon(t, map[string]http.HandlerFunc{"POST /api/chat": echo})
	path := filepath.Join(t.TempDir(), "a.png")
	if err := os.WriteFile(path, pngHeader, 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, errs := talk(t, &script{entries: []any{path + " what is it"}}, func(s *session) { s.opts.vision = true })
	wantEqual(t, "notes", errs, "Added image '"+path+"'\n")
	d.wantJSON("POST /api/chat", `{"model":"m","messages":[{"role":"user","content":"what is it","images":["iVBORw0KGgo="]}],"options":{}}`)
}

func TestSavedSessionIsShownAgain(t *testing.T) {
	c, out, _ := testConsole()
	s := &session{c: c, opts: runOptions{wrap: true}, inherited: []api.Message{
		{Role: "system", Content: "hidden"}, {Role: "user", Content: "hi"}, {Role: "assistant", Content: "hello"},
	}}
	s.replay()
	wantEqual(t, "output", out.String(), ">>> hi\nhello\n\n")
}

// Whatever the user types, a session answers or asks the daemon; it never ends by
// itself and never panics.
func FuzzSessionTakesAnyLine(f *testing.F) {
	for _, seed := range []string{"/", "/set", "/set parameter top_k x y", `/set system """`, `"""`, "/load a b", "/show x", "\x00", "/? set"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if word, _, _ := strings.Cut(strings.TrimSpace(line), " "); word == "/bye" || word == "/exit" || len(strings.Fields(line)) > 50 {
			t.Skip()
		}
		var out bytes.Buffer
		lines := &script{entries: []any{line, readline.ErrInterrupt, "/clear"}}
		s := &session{
			c:      &console{in: strings.NewReader(""), out: &out, err: io.Discard, session: t.Context()},
			client: api.NewClient(refused, http.DefaultClient),
			lines:  lines, interrupts: make(chan os.Signal, 1), opts: runOptions{options: map[string]any{}},
		}
		if err := s.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(out.String(), "Cleared session context\n\n") {
			t.Errorf("%q swallows what follows: %q", line, out.String())
		}
	})
}
