//go:build cgo

package llama

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"cllm/llm"
)

// vocabFiles are the vocabularies of llama.cpp's source tree, which the build keeps.
func vocabFiles(t testing.TB) []string {
	t.Helper()
	dir, err := exec.Command("pkg-config", "--variable=srcdir", "llama").Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "models", "ggml-vocab-*.gguf"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no vocabularies in %s (%v)", dir, err)
	}
	return files
}

func text(v *Vocab, tokens []llm.Token) string {
	var b strings.Builder
	for _, t := range tokens {
		b.WriteString(v.Piece(t))
	}
	return b.String()
}

func TestEveryVocabularyTokenizesWhateverComes(t *testing.T) {
	vectors := 0
	for _, file := range vocabFiles(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			m, err := LoadModel(t.Context(), file, ModelOptions{VocabOnly: true})
			if err != nil {
				t.Skip(err) // llama.cpp can't read it itself
			}
			defer m.Close()
			if followsVectors(t, m.Vocab(), file) {
				vectors++
			}
			takesAnyText(t, m.Vocab())
		})
	}
	if vectors < 5 {
		t.Errorf("only %d vocabularies have vectors", vectors)
	}
}

// followsVectors compares with llama.cpp's test vectors; false when it has none.
func followsVectors(t *testing.T, v *Vocab, file string) bool {
	in, err := os.ReadFile(file + ".inp")
	if err != nil {
		return false
	}
	out, err := os.ReadFile(file + ".out")
	if err != nil {
		t.Fatal(err)
	}
	texts := strings.Split(string(in), "\n__ggml_vocab_test__\n")
	lines := strings.Split(string(out), "\n")
	for i, s := range texts[:len(texts)-1] {
		var got []string
		for _, token := range v.Tokenize(s, false) {
			got = append(got, fmt.Sprint(token))
		}
		if want := strings.Fields(lines[i]); !slices.Equal(got, want) {
			t.Errorf("%q: tokens %v, want %v", s, got, want)
		}
	}
	return true
}

// takesAnyText feeds what has ended other programs: a long word overflows the
// stack of an ordinary thread in several vocabularies.
func takesAnyText(t *testing.T, v *Vocab) {
	for _, s := range append(slices.Clone(tricky), strings.Repeat("a", 30_000), strings.Repeat("=", 30_000)) {
		tokens := v.Tokenize(s, true)
		if len(tokens) < v.BOS() || len(tokens) == 0 && strings.Trim(s, " \x00") != "" {
			t.Errorf("%d tokens for %.40q", len(tokens), s)
		}
		for _, token := range tokens {
			if token < 0 || int(token) >= v.Size() {
				t.Fatalf("token %d for %.40q", token, s)
			}
		}
	}
}

// tricky are texts that tokenizers stumble over.
var tricky = []string{
	"",
	" ",
	"Hello, world!\n\n  indented\ttext ",
	"Grüße, 世界 🌍 e\u0301 \u200b\ufeff",
	"a\x00b\x00",
	"\x00",
	"\xff\xfe broken \xc3 utf-8 \xe4\xb8",
	"\xed\xa0\x80 surrogate",
	strings.Repeat(" ", 1000) + "\n" + strings.Repeat("=", 500),
	"<|im_start|>user\nHi<|im_end|>\n",
	"<|im_start|>" + strings.Repeat("x", 300),
}

func TestTextSurvivesTheTinyVocabulary(t *testing.T) {
	v := load(t, tinyPath, ModelOptions{}).Vocab()
	for _, s := range tricky {
		if got := text(v, v.Tokenize(s, false)); utf8.ValidString(s) && got != s {
			t.Errorf("%q comes back as %q", s, got)
		}
	}
	if got := v.Tokenize("the thing<|im_end|>", true); text(v, got) != "the thing<|im_end|>" || !v.IsEnd(got[len(got)-1]) {
		t.Errorf("tokens %v", got)
	}
	if v.BOS() != 0 || v.Size() != 275 {
		t.Errorf("BOS %d, size %d", v.BOS(), v.Size())
	}
	for _, token := range []llm.Token{-1, 275, 1 << 30} {
		if v.Piece(token) != "" || v.IsEnd(token) {
			t.Errorf("token %d has a piece or ends", token)
		}
	}
}

func TestTextIsTokenizedByManyGoroutines(t *testing.T) {
	v := load(t, tinyPath, ModelOptions{}).Vocab()
	s := strings.Repeat("the raining thing ", 40)
	want := v.Tokenize(s, true)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20 {
				if !slices.Equal(v.Tokenize(s, true), want) {
					t.Error("other tokens")
				}
			}
		})
	}
	all.Wait()
}

func FuzzTokenize(f *testing.F) {
	for _, s := range tricky {
		f.Add(s)
	}
	v := load(f, tinyPath, ModelOptions{}).Vocab()
	f.Fuzz(func(t *testing.T, s string) {
		tokens := v.Tokenize(s, true)
		if got := text(v, tokens); utf8.ValidString(s) && got != s {
			t.Errorf("%q comes back as %q", s, got)
		}
	})
}
