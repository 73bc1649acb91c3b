package llamaloader

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cllm/daemon"
	"cllm/llm"
	"cllm/llm/llmtest"
	"cllm/llm/llmtest/tinymodel"
)

// service is a daemon with real models.
type service struct {
	*testing.T
	url string
}

// serve starts a daemon that has the models "bert" and "qwen3".
func serve(t *testing.T) *service {
	t.Helper()
	d, err := daemon.New(daemon.Options{
		Listen: "127.0.0.1:0", Models: t.TempDir(), Loader: newLoader(t, Options{}), Log: slog.New(slog.DiscardHandler), KeepAlive: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	})
	s := &service{t, "http://" + d.Addr().String()}
	bert := filepath.Join(t.TempDir(), "bert.gguf")
	if err := tinymodel.WriteRandomBERT(bert, 1); err != nil {
		t.Fatal(err)
	}
	s.create("bert", bert, nil)
	s.create("qwen3", tiny(t), nil)
	return s
}

// create makes a model of a file, which change may change.
func (s *service) create(name, path string, change func([]byte) []byte) {
	s.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		s.Fatal(err)
	}
	if change != nil {
		data = change(data)
	}
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(data))
	if status, body := s.post("/api/blobs/"+digest, data); status != http.StatusCreated && status != http.StatusOK {
		s.Fatalf("%d %s", status, body)
	}
	req, _ := json.Marshal(map[string]any{
		"model": name, "files": map[string]string{"model.gguf": digest}, "parameters": map[string]any{"num_thread": 1},
	})
	if status, body := s.post("/api/create", req); status != http.StatusOK || !strings.Contains(string(body), "success") {
		s.Fatalf("%d %s", status, body)
	}
}

func (s *service) post(path string, body []byte) (int, []byte) {
	res, err := http.Post(s.url+path, "application/json", bytes.NewReader(body))
	if err != nil {
		s.Error(err)
		return 0, nil
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		s.Error(err)
	}
	return res.StatusCode, data
}

type embeddings struct {
	Error      string
	Embeddings [][]float32
	Tokens     int `json:"prompt_eval_count"`
}

// embed posts to /api/embed. more is further fields.
func (s *service) embed(model string, input any, more ...string) embeddings {
	text, _ := json.Marshal(input)
	_, body := s.post("/api/embed", fmt.Appendf(nil, `{"model":%q,"input":%s%s}`, model, text, strings.Join(more, "")))
	var v embeddings
	if err := json.Unmarshal(body, &v); err != nil {
		s.Errorf("%v: %.200s", err, body)
	}
	return v
}

// near reports vectors that differ in more than the last bits, or are not of length 1.
func (s *service) near(what string, got, want []float32) {
	s.Helper()
	if len(got) == 0 || len(got) != len(want) {
		s.Errorf("%s: %d and %d numbers", what, len(got), len(want))
		return
	}
	if x := llmtest.Similarity(got, want); !(x > 0.9999) {
		s.Errorf("%s: similarity %v", what, x)
	}
	var sum float64
	for _, x := range got {
		sum += float64(x) * float64(x)
	}
	if math.Abs(sum-1) > 1e-5 {
		s.Errorf("%s: its length is %v", what, math.Sqrt(sum))
	}
}

// sentences are n texts, some of them long, no two alike.
func sentences(n int) []string {
	words := strings.Fields("a b c d rain in spain stays mainly on the plain 1 2 3 , . zebra")
	texts := make([]string, n)
	for i := range texts {
		var b strings.Builder
		for j := range 2 + i*i%23 {
			b.WriteString(words[(i*7+j*(3+i%5))%len(words)] + " ")
		}
		fmt.Fprint(&b, i)
		texts[i] = b.String()
	}
	return texts
}

func TestAnEmbeddingIsTheSameAloneAndAmong200Others(t *testing.T) {
	s := serve(t)
	texts := sentences(200)
	for _, model := range []string{"bert", "qwen3"} {
		among := s.embed(model, texts)
		if len(among.Embeddings) != len(texts) {
			t.Fatalf("%s: %d vectors, %s", model, len(among.Embeddings), among.Error)
		}
		for i := 0; i < len(texts); i += 9 {
			alone := s.embed(model, texts[i])
			if len(alone.Embeddings) != 1 {
				t.Fatalf("%s: %s", texts[i], alone.Error)
			}
			s.near(texts[i], among.Embeddings[i], alone.Embeddings[0])
		}
		if x := llmtest.Similarity(among.Embeddings[1], among.Embeddings[2]); !(x < 0.99) {
			t.Errorf("%s: two texts have similarity %v", model, x)
		}
		var clients sync.WaitGroup
		for part := range slices.Chunk(slices.Collect(rangeOf(len(texts))), 13) {
			clients.Go(func() {
				var inputs []string
				for _, i := range part {
					inputs = append(inputs, texts[i])
				}
				got := s.embed(model, inputs)
				for j, i := range part {
					if j < len(got.Embeddings) {
						s.near(texts[i]+" beside other requests", got.Embeddings[j], among.Embeddings[i])
					}
				}
				if len(got.Embeddings) != len(part) {
					t.Errorf("%d vectors for %d texts: %s", len(got.Embeddings), len(part), got.Error)
				}
			})
		}
		clients.Wait()
	}
}

func rangeOf(n int) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
}

func TestLongInputsAreCutOrRefused(t *testing.T) {
	s := serve(t)
	letters := func(n int) string { return strings.Repeat("a b c d e f g ", n)[:2*n] }
	for _, tt := range []struct {
		model  string
		n      int // letters
		more   string
		tokens int // 0: refused
		same   int // letters of a text that has the same vector; 0: not looked at
	}{
		{"bert", 100, ``, 102, 0}, // with [CLS] and [SEP]
		{"bert", 126, `,"truncate":false`, 128, 0},
		{"bert", 127, `,"truncate":false`, 0, 0},
		{"bert", 1000, ``, 128, 126},
		{"bert", 1000, `,"options":{"num_ctx":4096}`, 128, 126},
		{"bert", 1000, `,"options":{"num_ctx":12}`, 12, 10},
		{"bert", 11, `,"options":{"num_ctx":12},"truncate":false`, 0, 0},
		{"qwen3", 2000, `,"options":{"num_ctx":300}`, 300, 0},
		{"qwen3", 2000, ``, 1024, 0},
		{"qwen3", 2000, `,"truncate":false`, 0, 0},
	} {
		what := fmt.Sprintf("%s, %d letters%s", tt.model, tt.n, tt.more)
		got := s.embed(tt.model, []string{letters(tt.n), "a"}, tt.more)
		if tt.tokens == 0 {
			if got.Error != "the input length exceeds the context length" {
				t.Errorf("%s: %+v", what, got)
			}
			continue
		}
		short := s.embed(tt.model, "a")
		if got.Tokens != tt.tokens+short.Tokens || len(got.Embeddings) != 2 {
			t.Errorf("%s: %d tokens, want %d: %s", what, got.Tokens-short.Tokens, tt.tokens, got.Error)
			continue
		}
		s.near(what+", its neighbour", got.Embeddings[1], short.Embeddings[0])
		if tt.same > 0 {
			s.near(what, got.Embeddings[0], s.embed(tt.model, letters(tt.same)).Embeddings[0])
		}
	}
}

func TestAModelAnswersAndEmbedsAtOnce(t *testing.T) {
	s := serve(t)
	ask := []byte(`{"model":"qwen3","prompt":"the rain","stream":false,"raw":true,"options":{"num_predict":60,"temperature":0}}`)
	answer := func() string {
		var v struct{ Response, Error string }
		_, body := s.post("/api/generate", ask)
		if err := json.Unmarshal(body, &v); err != nil || v.Error != "" {
			t.Errorf("%v %s", err, body)
		}
		return v.Response
	}
	want, texts := answer(), sentences(60)
	vectors := s.embed("qwen3", texts).Embeddings
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			if got := answer(); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
		clients.Go(func() {
			for i, v := range s.embed("qwen3", texts).Embeddings {
				s.near(texts[i], v, vectors[i])
			}
		})
	}
	clients.Wait()
	res, err := http.Get(s.url + "/api/ps")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var list struct{ Models []struct{ Name string } }
	if err := json.NewDecoder(res.Body).Decode(&list); err != nil || len(list.Models) != 1 {
		t.Errorf("resident: %+v, %v", list, err)
	}
}

// A file for embeddings that does not say so is tried as what answers first.
func TestAModelThatCantAnswerStillEmbeds(t *testing.T) {
	s := serve(t)
	path := filepath.Join(t.TempDir(), "bert.gguf")
	if err := tinymodel.WriteRandomBERT(path, 1); err != nil {
		t.Fatal(err)
	}
	s.create("mute", path, func(data []byte) []byte {
		return bytes.Replace(data, []byte("bert.pooling_type"), []byte("bert.pooling_typo"), 1)
	})
	if v := s.embed("mute", []string{"a b", "c d"}); len(v.Embeddings) != 2 {
		t.Errorf("%+v", v)
	}
	status, body := s.post("/api/generate", []byte(`{"model":"mute","prompt":"a"}`))
	if status != http.StatusBadRequest || string(body) != `{"error":"model 'mute:latest' gives embeddings only"}` {
		t.Errorf("%d %s", status, body)
	}
	if v := s.embed("mute", "a", `,"keep_alive":0`); len(v.Embeddings) != 1 {
		t.Errorf("%+v", v)
	}
}

func TestAnEmbeddingModelTakesAdaptersToo(t *testing.T) {
	l := newLoader(t, Options{})
	adapter := filepath.Join(t.TempDir(), "adapter.gguf")
	if err := tinymodel.WriteAdapter(adapter, tinymodel.Tiny, 4, 1); err != nil {
		t.Fatal(err)
	}
	model := tiny(t)
	vector := func(spec daemon.LoadSpec) []float32 {
		spec.ModelPath, spec.Slots, spec.Context = model, 1, 256
		m, err := l.Load(t.Context(), spec, noProgress)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if m.Engine != nil {
			defer m.Engine.Close()
		}
		e, err := m.OpenEmbedder()
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		parts := []llm.EmbedPart{{Tokens: m.Vocab.Tokenize("hello", true), Last: true}}
		if err := e.Embed(parts); err != nil {
			t.Fatal(err)
		}
		return parts[0].Vector
	}
	plain := vector(daemon.LoadSpec{})
	for _, embeddings := range []bool{false, true} {
		if got := vector(daemon.LoadSpec{Embeddings: embeddings}); llmtest.Similarity(got, plain) < 0.9999 {
			t.Errorf("embeddings %v: another vector", embeddings)
		}
		if got := vector(daemon.LoadSpec{Embeddings: embeddings, AdapterPaths: []string{adapter}}); llmtest.Similarity(got, plain) > 0.9999 {
			t.Errorf("embeddings %v: the adapter changes nothing", embeddings)
		}
	}
}
