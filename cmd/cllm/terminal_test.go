package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds each wait for a terminal's output.
const patience = 20 * time.Second

// terminal is a command that runs on a terminal of its own.
type terminal struct {
	t      *testing.T
	cmd    *exec.Cmd
	master *os.File // the user's end
	slave  *os.File
	output chan string // closed when the command has gone
	seen   string      // output that no wait has used up
	all    string
}

// onTerminal starts a command line on a terminal of so many columns.
func onTerminal(t *testing.T, columns uint16, args ...string) *terminal {
	t.Helper()
	master, slave := openPTY(t)
	size := &unix.Winsize{Row: 24, Col: columns}
	if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, size); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", asCommand+"=1", "TERM=xterm-256color")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, cmd: cmd, master: master, slave: slave, output: make(chan string)}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		defer close(term.output)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			if err != nil {
				return
			}
			select {
			case term.output <- string(buf[:n]):
			case <-t.Context().Done():
				return
			}
		}
	}()
	t.Cleanup(func() {
		master.Close()
		<-finished
	})
	return term
}

// openPTY opens a new pair of pseudo-terminals.
func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// expect waits for text and uses up the output to its end.
func (s *terminal) expect(text string) {
	s.t.Helper()
	late := time.After(patience)
	for {
		if _, rest, found := strings.Cut(s.seen, text); found {
			s.seen = rest
			return
		}
		select {
		case more, open := <-s.output:
			if !open {
				s.t.Fatalf("the command went without %q, after %q", text, s.all)
			}
			s.seen += more
			s.all += more
		case <-late:
			s.t.Fatalf("no %q, but %q", text, s.all)
		}
	}
}

func (s *terminal) send(keys string) {
	s.t.Helper()
	if _, err := s.master.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// wait waits for the end of the command and returns its exit code.
func (s *terminal) wait() int {
	s.t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- s.cmd.Wait() }()
	late := time.After(patience)
	for {
		select {
		case more := <-s.output:
			s.all += more
		case err := <-ended:
			var failed *exec.ExitError
			if err != nil && !errors.As(err, &failed) {
				s.t.Fatal(err)
			}
			return s.cmd.ProcessState.ExitCode()
		case <-late:
			s.cmd.Process.Kill()
			<-ended
			s.t.Fatalf("the command does not end; output %q", s.all)
		}
	}
}

// cooked tells whether the terminal echoes and makes lines, as a shell needs it.
func (s *terminal) cooked() bool {
	s.t.Helper()
	termios, err := unix.IoctlGetTermios(int(s.slave.Fd()), unix.TCGETS)
	if err != nil {
		s.t.Fatal(err)
	}
	const both = unix.ECHO | unix.ICANON
	return termios.Lflag&both == both
}

// talker is a daemon with a model that loads and chats.
func talker(t *testing.T, chat http.HandlerFunc) *fakeDaemon {
	return newDaemon(t, map[string]http.HandlerFunc{
		"POST /api/show":     says(plainShow),
		"POST /api/generate": says(`{"done":true,"done_reason":"load"}`),
		"POST /api/chat":     chat,
	})
}

func TestTerminalSessionTalksAndKeepsItsHistory(t *testing.T) {
	d := talker(t, echo)
	s := onTerminal(t, 80, "run", "m")
	s.expect(">>> ")
	s.send("hello\r")
	s.expect("answer\r\n\r\n")
	s.expect(">>> ")
	s.send("\"\"\"two\r")
	s.expect("... ")
	s.send("lines\"\"\"\r")
	s.expect("answer\r\n\r\n")
	s.expect(">>> ")
	s.send("/bye\r")
	if code := s.wait(); code != 0 || !s.cooked() {
		t.Errorf("exit code %d, terminal restored: %v", code, s.cooked())
	}
	wantEqual(t, "chats", d.chats(), [][]string{{"user: hello"}, {"user: hello", "assistant: answer", "user: two\nlines"}})
	history, err := os.ReadFile(filepath.Join(os.Getenv("HOME"), ".ollama", "history"))
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "history", string(history), "hello\n\"\"\"two\nlines\"\"\"\n/bye\n")
}

func TestTerminalSessionWritesNoHistoryWhenToldNotTo(t *testing.T) {
	talker(t, echo)
	t.Setenv("OLLAMA_NOHISTORY", "1")
	s := onTerminal(t, 80, "run", "m")
	s.expect(">>> ")
	s.send("secret\r")
	s.expect("answer")
	s.expect(">>> ")
	s.send("\x04") // Ctrl-D
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	history, err := os.ReadFile(filepath.Join(os.Getenv("HOME"), ".ollama", "history"))
	if err == nil && strings.Contains(string(history), "secret") {
		t.Errorf("history %q", history)
	}
}

func TestCtrlCOnATerminalStopsTheAnswerAndNotTheProgram(t *testing.T) {
	left := make(chan struct{})
	talker(t, inTurn(
		func(w http.ResponseWriter, r *http.Request) {
			streams(`{"message":{"role":"assistant","content":"endless"},"done":false}`)(w, r)
			<-r.Context().Done()
			close(left)
		},
		echo,
	))
	s := onTerminal(t, 80, "run", "m")
	s.expect(">>> ")
	s.send("go on\r")
	s.expect("endless")
	s.send("\x03")
	s.expect(">>> ")
	<-left
	s.send("\x03")
	s.expect("Use Ctrl + d or /bye to exit.")
	s.expect(">>> ")
	s.send("again\r")
	s.expect("answer")
	s.expect(">>> ")
	s.send("/bye\r")
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestSIGTERMAtThePromptRestoresTheTerminal(t *testing.T) {
	talker(t, echo)
	s := onTerminal(t, 80, "run", "m")
	s.expect(">>> ")
	if s.cooked() {
		t.Fatal("the line editor does not have the terminal")
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := s.wait(); code != exitTerminated || !s.cooked() {
		t.Errorf("exit code %d, terminal restored: %v", code, s.cooked())
	}
}

func TestCtrlCWhileTheModelLoadsEndsTheCommand(t *testing.T) {
	loading := make(chan struct{})
	newDaemon(t, map[string]http.HandlerFunc{
		"POST /api/show": says(plainShow),
		"POST /api/generate": func(_ http.ResponseWriter, r *http.Request) {
			close(loading)
			<-r.Context().Done()
		},
	})
	s := onTerminal(t, 80, "run", "m")
	<-loading
	s.send("\x03")
	if code := s.wait(); code != exitInterrupted {
		t.Errorf("exit code %d, output %q", code, s.all)
	}
	if strings.Contains(s.all, "Error") {
		t.Errorf("output %q", s.all)
	}
}

func TestCtrlCEndsAOneShotAnswerWithoutFailure(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{
		"POST /api/show": says(plainShow),
		"POST /api/generate": func(w http.ResponseWriter, r *http.Request) {
			streams(`{"response":"endless","done":false}`)(w, r)
			<-r.Context().Done()
		},
	})
	s := onTerminal(t, 80, "run", "m", "go on")
	s.expect("endless")
	s.send("\x03")
	if code := s.wait(); code != 0 || strings.Contains(s.all, "Error") {
		t.Errorf("exit code %d, output %q", code, s.all)
	}
}

func TestTerminalWrapsWordsUnlessToldNotTo(t *testing.T) {
	const text = "the quick brown fox jumps over the lazy dog"
	answer := streams(`{"response":"`+text+`","done":false}`, `{"response":"","done":true}`)
	for flag, want := range map[string]string{
		// On 29 columns a line has 24 cells: the s of jumps does not fit.
		"--nowordwrap=false": "the quick brown fox jump" + cursorLeft(4) + clearToEnd + "\r\njumps over the lazy dog\r\n\r\n",
		"--nowordwrap":       text + "\r\n\r\n",
	} {
		newDaemon(t, map[string]http.HandlerFunc{"POST /api/show": says(plainShow), "POST /api/generate": answer})
		s := onTerminal(t, 29, "run", "m", "p", flag)
		s.expect(want)
		if code := s.wait(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
}

func TestThoughtsAreGreyOnATerminalOnly(t *testing.T) {
	const grey, bold, plain = "\x1b[38;5;245m", "\x1b[1m", "\x1b[0m"
	newDaemon(t, map[string]http.HandlerFunc{"POST /api/show": says(thinkingShow), "POST /api/generate": thoughtful})
	s := onTerminal(t, 80, "run", "m", "p")
	s.expect(grey + bold + "Thinking...\r\n" + plain + grey + "Let me see.\r\n" +
		grey + bold + "...done thinking.\r\n\r\n" + plain + "42\r\n\r\n")
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, r := range []result{cllm("", "run", "m", "p"), cllm("", "list", "--help")} {
		if strings.Contains(r.Out+r.Err, "\x1b") {
			t.Errorf("escape codes without a terminal: %q", r.Out+r.Err)
		}
	}
}

func TestTerminalShowsAPullInPlace(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{"POST /api/pull": streams(
		`{"status":"pulling manifest"}`,
		`{"status":"x","digest":"sha256:7f4030143c1c477224c5","total":1000,"completed":1000}`,
		`{"status":"success"}`,
	)})
	s := onTerminal(t, 80, "pull", "m")
	s.expect("pulling manifest" + clearToEnd + "\r\npulling 7f4030143c1c: 100% ▕██")
	s.expect("▏   1 KB")
	s.expect("\r\nsuccess" + clearToEnd + "\r\n")
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestTerminalEditsTheLineInTheEditor(t *testing.T) {
	d := talker(t, echo)
	editor := filepath.Join(t.TempDir(), "editor")
	if err := os.WriteFile(editor, []byte("#!/bin/sh\nprintf ' more' >> \"$1\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("OLLAMA_EDITOR", editor)
	s := onTerminal(t, 80, "run", "m")
	s.expect(">>> ")
	s.send("some\x07") // Ctrl-G
	s.expect("some more")
	s.send("\r")
	s.expect("answer")
	s.expect(">>> ")
	s.send("/bye\r")
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	wantEqual(t, "chats", d.chats(), [][]string{{"user: some more"}})
}

func TestTerminalOfAnyWidthIsSurvived(t *testing.T) {
	for _, columns := range []uint16{0, 1, 3, 5, 7} {
		d := talker(t, echo)
		s := onTerminal(t, columns, "run", "m")
		s.expect(linePrompt)
		s.send("hello wide\x1b[D\x1b[D\x1b[D\x1b[D\x7f\x1b[C\x1b[A\x1b[B\r")
		s.expect("answer")
		s.expect(linePrompt)
		s.send("/bye\r")
		if code := s.wait(); code != 0 {
			t.Errorf("%d columns: exit code %d", columns, code)
		}
		wantEqual(t, "chats", d.chats(), [][]string{{"user: hellowide"}})
	}
	talker(t, echo)
	s := onTerminal(t, uint16(len(linePrompt)), "run", "m")
	s.expect("Error: the terminal has 4 columns, all taken by the prompt; make it wider")
	if code := s.wait(); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
}
