package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/quick"

	"github.com/google/go-cmp/cmp"
	"github.com/mattn/go-runewidth"
)

// screen returns the lines that a terminal shows after text, which may hold the
// codes that wrapper uses. Spaces at their ends cannot be seen.
func screen(t *testing.T, text string) []string {
	t.Helper()
	lines := [][]rune{nil}
	for text != "" {
		var n int
		last := len(lines) - 1
		if rest, ok := strings.CutPrefix(text, clearToEnd); ok {
			text = rest
		} else if _, err := fmt.Sscanf(text, "\x1b[%dD", &n); err == nil {
			if n > len(lines[last]) {
				t.Fatalf("the cursor moves %d left on a line of %d", n, len(lines[last]))
			}
			lines[last] = lines[last][:len(lines[last])-n]
			text = text[strings.IndexByte(text, 'D')+1:]
			if !strings.HasPrefix(text, clearToEnd) {
				t.Fatalf("what stood right of the cursor is not cleared: %q", text)
			}
		} else if text[0] == '\n' {
			lines = append(lines, nil)
			text = text[1:]
		} else {
			r := []rune(text)[0]
			lines[last] = append(lines[last], r)
			text = text[len(string(r)):]
		}
	}
	var shown []string
	for _, line := range lines {
		shown = append(shown, strings.TrimRight(string(line), " "))
	}
	return shown
}

func TestWordsMoveToTheNextLineWhole(t *testing.T) {
	tests := map[string]struct {
		width int
		text  string
		want  []string
	}{
		"fits":                 {25, "twenty cells are here", []string{"twenty cells are", "here"}},
		"exactly":              {25, "twenty cells are hir", []string{"twenty cells are hir"}},
		"space at the edge":    {25, "twenty cells are hir next", []string{"twenty cells are hir", "next"}},
		"own line ends":        {25, "one\n\ntwo", []string{"one", "", "two"}},
		"word wider than line": {15, "abcdefghijklmnop q", []string{"abcdefghij", "klmnop q"}},
		"wide characters":      {15, "一二三四五六七", []string{"一二三四五", "六七"}},
		"wide after narrow":    {15, "abc 一二三四", []string{"abc 一二三", "四"}},
		"tab":                  {25, "a\tb\tc d e f g h", []string{"a\tb\tc d", "e f g h"}},
		"narrow terminal":      {9, "no wrapping at all here", []string{"no wrapping at all here"}},
		"no terminal":          {0, "no wrapping at all here", []string{"no wrapping at all here"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var whole, pieces bytes.Buffer
			w := wrapper{out: &whole, width: func() int { return test.width }}
			w.write(test.text)
			w = wrapper{out: &pieces, width: func() int { return test.width }}
			for _, r := range test.text {
				w.write(string(r))
			}
			if diff := cmp.Diff(test.want, screen(t, whole.String())); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(whole.String(), pieces.String()); diff != "" {
				t.Errorf("in pieces it is written otherwise (-whole +pieces):\n%s", diff)
			}
		})
	}
}

func TestWrappingLosesNothingAndStaysWithinTheMargin(t *testing.T) {
	alphabet := []rune("abcdefgh    \n一é")
	holds := func(picks []byte, width uint8) bool {
		columns := wrapMinimum + int(width)%60
		var text strings.Builder
		for _, p := range picks {
			text.WriteRune(alphabet[int(p)%len(alphabet)])
		}
		var out bytes.Buffer
		w := wrapper{out: &out, width: func() int { return columns }}
		w.write(text.String())
		lines := screen(t, out.String())
		for _, line := range lines {
			if runewidth.StringWidth(line) > columns-wrapMargin {
				t.Logf("%q is wider than %d", line, columns-wrapMargin)
				return false
			}
		}
		bare := strings.NewReplacer(" ", "", "\n", "").Replace
		return bare(strings.Join(lines, "")) == bare(text.String())
	}
	if err := quick.Check(holds, &quick.Config{MaxCount: 500}); err != nil {
		t.Error(err)
	}
}
