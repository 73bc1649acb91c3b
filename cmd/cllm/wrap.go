package main

import (
	"io"
	"strings"

	"github.com/mattn/go-runewidth"
)

const (
	// wrapMargin is the number of cells at the right that stay empty.
	wrapMargin = 5
	// wrapMinimum is the narrowest terminal on which words are wrapped.
	wrapMinimum = 10
	tabStop     = 8
)

// wrapper writes streamed text to a terminal and moves a word to the next line
// when it does not fit. Text comes in any pieces: a word is shown as it grows and,
// if it hits the edge, erased and written again on the next line.
type wrapper struct {
	out   io.Writer
	width func() int // cells of the terminal; under wrapMinimum nothing is wrapped

	column int    // cells used on the current line
	word   string // the unfinished word at the end of the line
}

// write shows more text.
func (w *wrapper) write(text string) {
	width := w.width()
	if width < wrapMinimum {
		io.WriteString(w.out, text)
		return
	}
	var b strings.Builder
	for _, r := range text {
		w.put(&b, r, width-wrapMargin)
	}
	io.WriteString(w.out, b.String())
}

// put adds one rune to b, on a line of limit cells.
func (w *wrapper) put(b *strings.Builder, r rune, limit int) {
	if r == '\n' || r == '\r' {
		b.WriteRune(r)
		w.column, w.word = 0, ""
		return
	}
	cells := runewidth.RuneWidth(r)
	space := r == ' ' || r == '\t'
	if r == '\t' {
		cells = tabStop - w.column%tabStop
	}
	if w.column+cells > limit {
		// A wide character may be parted from the word before it.
		w.breakLine(b, space || cells > 1)
		if space {
			return // the line's end stands for it
		}
	}
	b.WriteRune(r)
	w.column += cells
	switch {
	case space, cells > 1:
		w.word = ""
	default:
		w.word += string(r)
	}
}

// breakLine begins a new line and takes the unfinished word along, unless it has
// just ended or fills the whole line.
func (w *wrapper) breakLine(b *strings.Builder, ended bool) {
	n := runewidth.StringWidth(w.word)
	if ended || n == 0 || n >= w.column {
		b.WriteByte('\n')
		w.column, w.word = 0, ""
		return
	}
	b.WriteString(cursorLeft(n) + clearToEnd + "\n" + w.word)
	w.column = n
}
