package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mattn/go-runewidth"
	"github.com/ollama/ollama/progress"
	"github.com/ollama/ollama/readline"
	"golang.org/x/term"
)

const (
	clearToEnd = readline.ClearToEOL
	clearLine  = readline.ClearLine
	lineStart  = readline.CursorBOL

	redrawEvery   = 100 * time.Millisecond
	plainColumns  = 80
	plainLines    = 24
	spinnerFrames = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
)

var cursorLeft = readline.CursorLeftN

// display shows the progress of long work: lines of status, the newest with a
// spinner, and bars. On a terminal it redraws them in place. Elsewhere it prints
// each status, and each bar once it is full, as a plain line.
//
// The bars are Ollama's; its Progress and Spinner are not used, since their
// goroutines read without a lock what others write, and never end. Here one lock
// guards the rows, and finish or clear waits for the one goroutine that draws.
type display struct {
	out      io.Writer
	terminal bool
	started  time.Time
	quit     chan struct{} // closed to end redraw
	drawing  sync.WaitGroup
	once     sync.Once

	mu    sync.Mutex
	rows  []*row
	byKey map[string]*row
	drawn int // rows on the screen
}

// row is a bar, or a line of status.
type row struct {
	text string
	bar  *progress.Bar
	full bool
	busy bool // the spinner turns
}

// newDisplay starts a display on w. The caller ends it with finish or clear.
func newDisplay(w io.Writer) *display {
	return startDisplay(w, isTerminal(w))
}

func startDisplay(w io.Writer, terminal bool) *display {
	d := &display{
		out: w, terminal: terminal, started: time.Now(),
		quit: make(chan struct{}), byKey: map[string]*row{},
	}
	if terminal {
		d.drawing.Go(func() { redraw(d.quit, d.draw) })
	}
	return d
}

// redraw calls draw again and again until quit is closed.
func redraw(quit <-chan struct{}, draw func()) {
	tick := time.NewTicker(redrawEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			draw()
		case <-quit:
			return
		}
	}
}

// status says what is being done now. What was done before stands above it.
func (d *display) status(text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settle()
	d.rows = append(d.rows, &row{text: text, busy: true})
	if !d.terminal && text != "" {
		fmt.Fprintln(d.out, text)
	}
}

// bar sets how much of the work called key is done, in bytes. The first call
// makes its bar.
func (d *display) bar(key, label string, done, total int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.byKey[key]
	if r == nil {
		d.settle()
		r = &row{text: label, bar: progress.NewBar(label, total, done)}
		d.byKey[key] = r
		d.rows = append(d.rows, r)
	}
	r.bar.Set(done)
	if done >= total && !r.full {
		r.full = true
		if !d.terminal {
			fmt.Fprintf(d.out, "%s 100%%\n", r.text)
		}
	}
}

// settle stops the spinners. The lock is held.
func (d *display) settle() {
	for _, r := range d.rows {
		r.busy = false
	}
}

// finish leaves the last state on the screen. Later calls do nothing.
func (d *display) finish() {
	d.end(func() {
		if len(d.rows) > 0 {
			d.paint()
			io.WriteString(d.out, "\n")
		}
	})
}

// clear takes everything off the screen again. Later calls do nothing.
func (d *display) clear() {
	d.end(func() {
		var b strings.Builder
		for i := range d.drawn {
			if i > 0 {
				b.WriteString(readline.CursorUp)
			}
			b.WriteString(clearLine + lineStart)
		}
		io.WriteString(d.out, b.String())
	})
}

// end stops the drawing for good and calls last, on a terminal, with the lock held.
func (d *display) end(last func()) {
	d.once.Do(func() {
		close(d.quit)
		d.drawing.Wait()
		d.mu.Lock()
		defer d.mu.Unlock()
		d.settle()
		if d.terminal {
			last()
		}
	})
}

func (d *display) draw() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.paint()
}

// paint draws the newest rows that the screen has room for over those drawn
// before, in one write so that nothing flickers. The lock is held.
func (d *display) paint() {
	width, height := plainColumns, plainLines
	if f, ok := d.out.(*os.File); ok {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 && h > 0 {
			width, height = w, h
		}
	}
	var b strings.Builder
	for range d.drawn - 1 {
		b.WriteString(readline.CursorUp)
	}
	b.WriteString(lineStart)
	visible := d.rows[max(0, len(d.rows)-height):]
	for i, r := range visible {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(d.line(r, width) + clearToEnd)
	}
	d.drawn = len(visible)
	io.WriteString(d.out, b.String())
}

// line is one row as the screen shows it, never wider than the screen.
func (d *display) line(r *row, width int) string {
	if r.bar != nil {
		return r.bar.String()
	}
	text := strings.TrimSpace(r.text)
	if !r.busy {
		return runewidth.Truncate(text, width-1, "…")
	}
	frames := []rune(spinnerFrames)
	frame := frames[int(time.Since(d.started)/redrawEvery)%len(frames)]
	if text != "" {
		text = runewidth.Truncate(text, width-4, "…") + " "
	}
	return text + string(frame) + " "
}
