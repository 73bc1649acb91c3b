package safetensors

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ollama/ollama/convert"

	"cllm/llm/llmtest/tinymodel"
)

// withTokenizer writes a llama with another tokenizer.json.
func withTokenizer(t *testing.T, text string, vocabSize int) string {
	t.Helper()
	dir := t.TempDir()
	f := tinymodel.RandomFolder("LlamaForCausalLM", llama(), 1)
	f.Files["config.json"].(map[string]any)["vocab_size"] = vocabSize
	f.Files["tokenizer.json"] = json.RawMessage("{}")
	if err := f.Write(dir, "F16", 1); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tokenizer.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestATokenizerIsReadAsOllamaDoes(t *testing.T) {
	for what, text := range map[string]string{
		"texts for merges":        `{"version":"1.0","model":{"type":"BPE","dropout":null,"vocab":{"a":0,"b":1,"ab":2,"\u00e9\"<":3},"merges":["a b","b a"]}}`,
		"lists for merges":        `{"model":{"merges":[["a","b"],["a b","c"]],"vocab":{"a":5,"b":1}}}`,
		"added tokens":            `{"added_tokens":[{"id":1,"content":"<|im_end|>","special":true},{"id":7,"content":"<x>"}],"model":{"vocab":{"a":0,"b":1}}}`,
		"added ones of one place": `{"model":{"vocab":{"a":0}},"added_tokens":[{"id":1,"content":"x"},{"id":1,"content":"y","special":true}]}`,
		"a pre-tokenizer":         `{"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"x"}}]},"model":{"vocab":{"a":0}}}`,
		"what nobody reads":       `{"normalizer":{"a":[{"b":[1,2,{}]}]},"model":{"vocab":{"a":0},"other":[[["deep"]]]},"post_processor":null}`,
		"null":                    `{"added_tokens":null,"model":{"vocab":{"a":0},"merges":null},"pre_tokenizer":null}`,
		"no model":                `{"added_tokens":[{"id":0,"content":"a"}]}`,
	} {
		for _, size := range []int{1, 9} {
			dir := withTokenizer(t, text, size)
			got, err := result(t, func(f *os.File) error { return Model(t.Context(), os.DirFS(dir), f) })
			if err != nil {
				t.Errorf("%s: %v", what, err)
				continue
			}
			want, err := result(t, func(f *os.File) error { return convert.ConvertModel(os.DirFS(dir), f) })
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s, of %d: Ollama makes another one", what, size)
			}
		}
	}
}

func TestABadTokenizerIsTheCallersError(t *testing.T) {
	for text, want := range map[string]string{
		``:                                 "ends too early",
		`{"model":{"vocab":{"a":0`:         "ends too early",
		`[]`:                               `the file should begin with {, not with "["`,
		`{"model":3}`:                      `model should begin with {, not with "3"`,
		`{"model":{"vocab":[["a",0]]}}`:    `vocab should begin with {`,
		`{"model":{"vocab":{"a":"b"}}}`:    "cannot unmarshal",
		`{"model":{"vocab":{"a":1.5}}}`:    "cannot unmarshal",
		`{"model":{"merges":{"a":0}}}`:     `merges should begin with [`,
		`{"model":{"merges":[3]}}`:         "a merge is neither",
		`{"model":{"merges":[["a",3]]}}`:   "cannot unmarshal",
		`{"added_tokens":[3]}`:             "cannot unmarshal",
		`{"model":{"vocab":{"a":0}}`:       "ends too early",
		`{"model":{"merges":["a b"}}`:      "invalid character",
		`{"model":{"merges":["a b" "c"]}}`: "invalid character",
		`{"model":{"vocab":{"a":0}},"normalizer":` + strings.Repeat("[", 1<<12): "ends too early",
	} {
		dir := withTokenizer(t, text, 1)
		_, err := result(t, func(f *os.File) error { return Model(t.Context(), os.DirFS(dir), f) })
		var input *Error
		if !errors.As(err, &input) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "tokenizer.json can't be read") {
			t.Errorf("%.60s: got %v, want ... %s ...", text, err, want)
		}
	}
}

func TestATokenizerThatHoldsTooMuchIsRefused(t *testing.T) {
	for want, c := range map[string]struct {
		text string
		full vocabulary
	}{
		"more than 524288 tokens":       {`{"model":{"vocab":{"a":0}}}`, vocabulary{large: true, tokens: make([]vocabularyToken, mostTokens)}},
		"more than 1048576 merges":      {`{"model":{"merges":["a b"]}}`, vocabulary{large: true, merges: make([]string, mostMerges)}},
		"adds more than 65536 tokens":   {`{"added_tokens":[{"id":1}]}`, vocabulary{added: make([]addedToken, mostAdded)}},
		"its pre_tokenizer has 1048580": {`{"pre_tokenizer":"` + strings.Repeat("x", 1<<20+2) + `"}`, vocabulary{}},
	} {
		err := c.full.read(json.NewDecoder(strings.NewReader(c.text)))
		var input *Error
		if !errors.As(err, &input) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want ... %s ...", err, want)
		}
	}
}
