package main

import (
	"bytes"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// frames collects what is written; the display's goroutine and the test share it.
type frames struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (f *frames) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.text.Write(p)
}

// take returns what was written since the last call.
func (f *frames) take() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.text.Reset()
	return f.text.String()
}

func TestDisplayTurnsTheSpinnerOfTheNewestStatusOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var screen frames
		d := startDisplay(&screen, true)
		tick := func() string {
			time.Sleep(redrawEvery) // a moment of the bubble's clock
			synctest.Wait()
			return screen.take()
		}
		if d.status("one"); tick() != "\x1b[1Gone ⠙ \x1b[K" {
			t.Error("first frame is wrong")
		}
		if got := tick(); got != "\x1b[1Gone ⠹ \x1b[K" {
			t.Errorf("the spinner does not turn: %q", got)
		}
		d.status("two")
		if got := tick(); got != "\x1b[1Gone\x1b[K\ntwo ⠸ \x1b[K" {
			t.Errorf("second status: %q", got)
		}
		if got := tick(); got != "\x1b[1A\x1b[1Gone\x1b[K\ntwo ⠼ \x1b[K" {
			t.Errorf("rows are not drawn over: %q", got)
		}
		d.finish()
		if got := screen.take(); got != "\x1b[1A\x1b[1Gone\x1b[K\ntwo\x1b[K\n" {
			t.Errorf("last frame: %q", got)
		}
		d.finish()
		d.clear()
		if got := screen.take(); got != "" {
			t.Errorf("something is drawn after the end: %q", got)
		}
	})
}

func TestDisplayClearsWhatItDrew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var screen frames
		d := startDisplay(&screen, true)
		d.status("one")
		d.status("two")
		time.Sleep(redrawEvery)
		synctest.Wait()
		screen.take()
		d.clear()
		if got := screen.take(); got != "\x1b[2K\x1b[1G\x1b[1A\x1b[2K\x1b[1G" {
			t.Errorf("got %q", got)
		}
	})
}

func TestDisplayEndedBeforeItsFirstFrameDrawsNothing(t *testing.T) {
	var screen frames
	d := startDisplay(&screen, true)
	d.status("")
	d.clear()
	if got := screen.take(); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestDisplayShowsBarsFromManyGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var screen frames
		d := startDisplay(&screen, true)
		var all sync.WaitGroup
		for _, key := range []string{"a", "b", "c"} {
			all.Go(func() {
				for done := range int64(101) {
					d.bar(key, "copying "+key, done, 100)
					time.Sleep(redrawEvery / 30)
				}
			})
		}
		all.Wait()
		d.finish()
		last := screen.take()
		for _, key := range []string{"copying a 100%", "copying b 100%", "copying c 100%"} {
			if !strings.Contains(last, key) {
				t.Errorf("%q is missing", key)
			}
		}
	})
}

func TestDisplayShowsTheNewestRowsThatFit(t *testing.T) {
	var screen frames
	d := startDisplay(&screen, true)
	for i := range 30 {
		d.status(strings.Repeat(string(rune('a'+i%26)), 200))
	}
	d.finish()
	got := screen.take()
	if rows := strings.Count(got, "\n"); rows != plainLines {
		t.Errorf("%d lines were drawn, the screen has %d", rows, plainLines)
	}
	for line := range strings.Lines(got) {
		if n := strings.Count(line, "…"); n != 1 {
			t.Errorf("a long line is not cut: %q", line)
		}
	}
}

func TestDisplayOnAFileWritesPlainLines(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := newDisplay(f)
	d.status("")
	d.status("one")
	d.bar("k", "two", 5, 10)
	d.bar("k", "two", 10, 10)
	d.bar("k", "two", 10, 10)
	d.finish()
	got, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != "one\ntwo 100%\n" {
		t.Errorf("got %q", got)
	}
}
