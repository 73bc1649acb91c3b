package llm

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// cut gives the text piece by piece, each n bytes, and returns all that came out.
func cut(t *testing.T, text string, n int, stop []string) (out string, stopped bool) {
	t.Helper()
	x := NewText(stop)
	var b strings.Builder
	pieces, texts := 0, 0
	sent := func(s string) {
		if s != "" {
			texts++
		}
		if texts > pieces {
			t.Errorf("%d texts came of %d pieces", texts, pieces)
		}
		b.WriteString(s)
	}
	for len(text) > 0 {
		k := min(n, len(text))
		s, ended := x.Add(text[:k])
		pieces++
		if !utf8.ValidString(s) {
			t.Errorf("sent %q, which is not valid UTF-8", s)
		}
		sent(s)
		if ended {
			return b.String(), true
		}
		text = text[k:]
	}
	s := x.Flush()
	if !utf8.ValidString(s) {
		t.Errorf("flushed %q, which is not valid UTF-8", s)
	}
	sent(s)
	return b.String(), false
}

func TestTextIsTheSameHoweverItIsCut(t *testing.T) {
	tests := []struct {
		text string
		stop []string
		want string
		ends bool
	}{
		{"plain", nil, "plain", false},
		{"grüße, 世界, 🙂!", nil, "grüße, 世界, 🙂!", false},
		{"a\xffb\xfec", nil, "a\ufffdb\ufffdc", false},
		{"a\xe2\x82", nil, "a", false},
		{"\xf0\x9f\x99", nil, "", false},
		{"a\xe2\x82z", nil, "a\ufffd\ufffdz", false},
		{"one<|end|>two", []string{"<|end|>"}, "one", true},
		{"one<|en", []string{"<|end|>"}, "one<|en", false},
		{"<|e<|end|>x", []string{"<|end|>"}, "<|e", true},
		{"aaab", []string{"aab"}, "a", true},
		{"x\n\ny", []string{"\n\n"}, "x", true},
		{"à la carte", []string{"é"}, "à la carte", false},
		{"caf\u00e9 noir", []string{"\u00e9"}, "caf", true},
		{"nothing to stop at", []string{""}, "nothing to stop at", false},
		{"bc", []string{"abc", "c", "b"}, "", true},
	}
	for _, tt := range tests {
		for n := 1; n <= len(tt.text); n++ {
			got, ends := cut(t, tt.text, n, tt.stop)
			// Whole pieces may hold more than one stop string: the earliest counts.
			if got != tt.want || ends != tt.ends {
				t.Errorf("%q in pieces of %d with stop %q: %q, %v; want %q, %v", tt.text, n, tt.stop, got, ends, tt.want, tt.ends)
			}
		}
	}
}

func TestTextIsSentAsSoonAsItIsSafe(t *testing.T) {
	x := NewText([]string{"STOP"})
	for _, step := range []struct{ piece, want string }{
		{"hello ", "hello "},
		{"S", ""},
		{"T", ""},
		{"A", "STA"},
		{"\xe2\x82", ""},
		{"\xac", "€"},
		{"as S", ""}, // whole pieces, not the part that is safe
		{"oon", "as Soon"},
		{"a\xe2\x82", ""},
		{"\xac", "a€"},
	} {
		if got, _ := x.Add(step.piece); got != step.want {
			t.Errorf("after %q: %q, want %q", step.piece, got, step.want)
		}
	}
}

func FuzzTextLosesAndInventsNothing(f *testing.F) {
	f.Add("a€b\xffc", uint8(1), "")
	f.Add("one STOP two", uint8(3), "STOP")
	f.Add("\xe2\x82\xe2\x82\xac", uint8(2), "\x82")
	f.Fuzz(func(t *testing.T, text string, n uint8, stop string) {
		stop = strings.ToValidUTF8(stop, "")
		want, ends := text, false
		if stop != "" {
			want, _, ends = strings.Cut(text, stop)
		}
		if !ends {
			want = want[:len(want)-partialRune([]byte(want))]
		}
		got, stopped := cut(t, text, int(n%7)+1, []string{stop})
		if want = string([]rune(want)); got != want || stopped != ends {
			t.Errorf("%q in pieces of %d with stop %q: %q, %v; want %q, %v", text, n%7+1, stop, got, stopped, want, ends)
		}
	})
}
