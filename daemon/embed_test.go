package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/fs/ggml"

	"cllm/llm"
	"cllm/llm/llmtest"
	"cllm/modelstore"
)

// length1 is the fake's vector of a text, with the length 1 in its first dimensions.
func length1(text string, dimensions int) []float32 {
	v := llmtest.Vector(llmtest.Vocab{}.Tokenize(text, true), 8)[:dimensions]
	var sum float64
	for _, x := range v {
		sum += float64(x) * float64(x)
	}
	for i := range v {
		v[i] = float32(float64(v[i]) / math.Sqrt(sum))
	}
	return v
}

// embedded decodes an answer of /api/embed.
func embedded(t testing.TB, r response) api.EmbedResponse {
	t.Helper()
	var v api.EmbedResponse
	if err := json.Unmarshal([]byte(r.body), &v); err != nil || r.status != 200 {
		t.Fatalf("%d %v %.300s", r.status, err, r.body)
	}
	return v
}

func wantEmbedding(t testing.TB, what string, got, want []float32) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateApprox(0, 1e-6)); diff != "" {
		t.Errorf("%s: %s", what, diff)
	}
}

func TestEmbedGivesEachInputItsVectorOfLength1(t *testing.T) {
	a := serveFake(t, always("ok"))
	for _, tt := range []struct {
		body   string
		texts  []string
		width  int
		tokens int
	}{
		{`{"model":"embedder","input":"hello"}`, []string{"hello"}, 8, 5},
		{`{"model":"embedder","input":["hello"]}`, []string{"hello"}, 8, 5},
		{`{"model":"embedder","input":["a","longer","a"]}`, []string{"a", "longer", "a"}, 8, 8},
		{`{"model":"embedder","input":["a","b"],"dimensions":3}`, []string{"a", "b"}, 3, 2},
		{`{"model":"embedder","input":"a","dimensions":9}`, []string{"a"}, 8, 1},
		{`{"model":"embedder","input":"a","dimensions":-1}`, []string{"a"}, 8, 1},
		{`{"model":"embedder","input":"hello","options":{"num_ctx":4}}`, []string{"hell"}, 8, 4},
		{`{"model":"embedder","input":"hello","options":{"num_ctx":4},"truncate":true}`, []string{"hell"}, 8, 4},
		{`{"model":"embedder","input":"hell","options":{"num_ctx":4},"truncate":false}`, []string{"hell"}, 8, 4},
		{`{"model":"plain","input":["a","b"]}`, []string{"a", "b"}, 8, 2},
		{`{"model":"PLAIN:latest","input":"a"}`, []string{"a"}, 8, 1},
	} {
		r := a.post("/api/embed", tt.body)
		v := embedded(t, r)
		if len(v.Embeddings) != len(tt.texts) || v.PromptEvalCount != tt.tokens || v.TotalDuration < 1 || v.LoadDuration < 1 {
			t.Errorf("%s: %s", tt.body, r.body)
			continue
		}
		for i, text := range tt.texts {
			wantEmbedding(t, tt.body, v.Embeddings[i], length1(text, tt.width))
		}
	}
}

func TestEmbedAnswersAsOllamaDoes(t *testing.T) {
	a := serveFake(t, always("ok"), func(o *Options, _ *llmtest.Options) { o.ContextLength = 16 })
	const long = "more than sixteen tokens"
	for _, tt := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"/api/embed", `{"model":"embedder"}`, 200, `{"model":"embedder","embeddings":[]}`},
		{"/api/embed", `{"model":"embedder","input":""}`, 200, `{"model":"embedder","embeddings":[]}`},
		{"/api/embed", `{"model":"embedder","input":[]}`, 200, `{"model":"embedder","embeddings":[]}`},
		{"/api/embed", `{"model":"embedder","input":null}`, 200, `{"model":"embedder","embeddings":[]}`},
		{"/api/embed", ``, 400, `{"error":"missing request body"}`},
		{"/api/embed", `{"model":5}`, 400, `{"error":"json: cannot unmarshal number into Go struct field EmbedRequest.model of type string"}`},
		{"/api/embed", `{"model":"nowhere","input":3}`, 400, `{"error":"invalid input type"}`},
		{"/api/embed", `{"model":"embedder","input":["a",3]}`, 400, `{"error":"invalid input type"}`},
		{"/api/embed", `{"model":"embedder","input":[["a"]]}`, 400, `{"error":"invalid input type"}`},
		{"/api/embed", `{"model":"embedder","input":{"text":"a"}}`, 400, `{"error":"invalid input type"}`},
		{"/api/embed", `{"model":"nowhere","input":"a"}`, 404, `{"error":"model \"nowhere\" not found, try pulling it first"}`},
		{"/api/embed", `{"input":"a"}`, 500, `{"error":"unqualified name: registry.ollama.ai/library/!MISSING!:latest"}`},
		{"/api/embed", `{"model":"a b","input":"a"}`, 500, `{"error":"unqualified name: registry.ollama.ai/library/a b:latest"}`},
		{"/api/embed", `{"model":"embedder","input":"a","options":{"num_ctx":"x"}}`, 500, `{"error":"option \"num_ctx\" must be of type integer"}`},
		{"/api/embed", `{"model":"embedder","input":"a","keep_alive":"10"}`, 400, `{"error":"time: missing unit in duration \"10\""}`},
		{"/api/embed", `{"model":"embedder","input":["a",""]}`, 400, `{"error":"input 2 of 2 has no tokens, so it has no embedding"}`},
		{"/api/embed", `{"model":"embedder","input":"` + long + `","truncate":false}`, 400, `{"error":"the input length exceeds the context length"}`},

		{"/api/embeddings", `{"model":"embedder"}`, 200, `{"embedding":[]}`},
		{"/api/embeddings", `{"model":"embedder","prompt":""}`, 200, `{"embedding":[]}`},
		{"/api/embeddings", ``, 400, `{"error":"missing request body"}`},
		{"/api/embeddings", `{"prompt":"a"}`, 400, `{"error":"model is required"}`},
		{"/api/embeddings", `{"model":"a b","prompt":"a"}`, 400, `{"error":"model is required"}`},
		{"/api/embeddings", `{"model":"nowhere","prompt":"a"}`, 404, `{"error":"model \"nowhere\" not found, try pulling it first"}`},
		{"/api/embeddings", `{"model":"embedder","prompt":"` + long + `"}`, 500, `{"error":"the input length exceeds the context length"}`},
	} {
		r := a.post(tt.path, tt.body)
		if r.status != tt.status || r.body != tt.want || r.header.Get("Content-Type") != typeJSON {
			t.Errorf("%s %s: %d %s (%s)\nwant %d %s", tt.path, tt.body, r.status, r.body, r.header.Get("Content-Type"), tt.status, tt.want)
		}
	}
}

func TestTheOlderRouteGivesTheVectorThatOllamasEngineGives(t *testing.T) {
	a := serveFake(t, always("ok"))
	own := llmtest.Vector(llmtest.Vocab{}.Tokenize("hello", true), 8)
	for _, tt := range []struct {
		architecture string
		normalize    any // nil: the file does not say
		want         []float32
	}{
		{"bert", nil, length1("hello", 8)},
		{"bert", true, length1("hello", 8)},
		{"bert", false, own},
		{"nomic-bert", nil, own},
		{"nomic-bert", true, length1("hello", 8)},
		{"nomic-bert-moe", true, own},
		{"qwen3", false, length1("hello", 8)},
		{"gemma3", nil, length1("hello", 8)},
		{"llama", true, own},
	} {
		kv := ggml.KV{"general.architecture": tt.architecture, tt.architecture + ".pooling_type": uint32(1)}
		if tt.normalize != nil {
			kv[tt.architecture+".normalize_embeddings"] = tt.normalize
		}
		a.createFrom(kv, "older", modelstore.CreateRequest{})
		var v api.EmbeddingResponse
		r := a.post("/api/embeddings", `{"model":"older","prompt":"hello","keep_alive":0}`)
		if err := json.Unmarshal([]byte(r.body), &v); err != nil || r.status != 200 {
			t.Fatalf("%d %s", r.status, r.body)
		}
		got := make([]float32, len(v.Embedding))
		for i, x := range v.Embedding {
			got[i] = float32(x)
		}
		wantEmbedding(t, fmt.Sprintf("%s, normalize_embeddings %v", tt.architecture, tt.normalize), got, tt.want)
	}
}

func TestNumbersThatAreNoneAreAnError(t *testing.T) {
	a := serveFake(t, always("ok"), func(o *Options, _ *llmtest.Options) {
		o.Loader.(*fakeLoader).embed.Vector = func(text []llm.Token, width int) []float32 {
			v := make([]float32, width)
			switch text[0] {
			case 'n':
				v[7] = float32(math.NaN())
			case 'i':
				v[7] = float32(math.Inf(1))
			}
			return v
		}
	})
	for _, text := range []string{"nan", "inf"} {
		for _, body := range []string{
			fmt.Sprintf(`{"model":"embedder","input":["zero",%q]}`, text),
			fmt.Sprintf(`{"model":"embedder","input":%q,"dimensions":2}`, text),
		} {
			if r := a.post("/api/embed", body); r.status != 400 || errorText(t, r) != "embedding contains NaN or Inf values" {
				t.Errorf("%s: %d %s", body, r.status, r.body)
			}
		}
		if r := a.post("/api/embeddings", fmt.Sprintf(`{"model":"embedder","prompt":%q}`, text)); r.status != 500 || errorText(t, r) != "embedding contains NaN or Inf values" {
			t.Errorf("%s: %d %s", text, r.status, r.body)
		}
	}
	// A vector without a direction stays as it is.
	if v := embedded(t, a.post("/api/embed", `{"model":"embedder","input":"zero"}`)); !slices.Equal(v.Embeddings[0], make([]float32, 8)) {
		t.Errorf("%v", v.Embeddings)
	}
}

// framed is a vocabulary that puts a token before each text and two behind it.
type framed struct{ llmtest.Vocab }

func (f framed) Tokenize(text string, special bool) []llm.Token {
	tokens := f.Vocab.Tokenize(text, false)
	if !special {
		return tokens
	}
	return append(append([]llm.Token{llmtest.IMStart}, tokens...), llmtest.IMEnd, llmtest.EndOfText)
}

func (framed) BOS() int { return 1 }

func TestACutTextKeepsWhatTheTokenizerPutsAtItsEnds(t *testing.T) {
	ends := func(text string) []llm.Token { return framed{}.Tokenize(text, true) }
	for _, tt := range []struct {
		text  string
		limit int
		want  []llm.Token
	}{
		{"abc", 6, ends("abc")},
		{"abcd", 6, ends("abc")},
		{"abcd", 4, ends("a")},
		{"", 4, ends("")},
	} {
		texts, count, err := tokenizeInputs(t.Context(), framed{}, []string{tt.text}, tt.limit, true)
		if err != nil || !slices.Equal(texts[0], tt.want) || count != len(tt.want) {
			t.Errorf("%q in %d: %v, %d, %v; want %v", tt.text, tt.limit, texts, count, err, tt.want)
		}
	}
	_, _, err := tokenizeInputs(t.Context(), framed{}, []string{"abc"}, 3, true)
	if status, text := answer(err); status != 400 || text != textNothingLeft {
		t.Errorf("a context of the ends alone: %d %s", status, text)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := tokenizeInputs(ctx, framed{}, []string{"abc"}, 9, true); err != context.Canceled {
		t.Errorf("for nobody: %v", err)
	}
}

func TestARequestWithTooManyInputsIsRefused(t *testing.T) {
	a := serveFake(t, always("ok"), func(o *Options, _ *llmtest.Options) {
		o.Loader.(*fakeLoader).embed.Limits.Width = maxNumbers / 3
	})
	r := a.post("/api/embed", `{"model":"embedder","input":["a","b","c","d"]}`)
	if r.status != 400 || errorText(t, r) != "4 inputs are too many for one request, which may have 3: send them in several" {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func FuzzEmbedBodies(f *testing.F) {
	a := serveFake(f, always("ok"))
	handler := a.routes(a.Addr())
	for _, input := range []string{
		``, `null`, `{}`, `"a"`, `{"model":"embedder","input":"a"}`, `{"model":"plain","input":["a","b",""]}`,
		`{"model":"embedder","input":[1]}`, `{"model":"embedder","input":{"a":1},"prompt":7}`, `{"model":"embedder","input":[[1,2]],"prompt":"x"}`,
		`{"model":"embedder","input":"\ud800\u0000","dimensions":3,"truncate":false,"options":{"num_ctx":1}}`,
		`{"model":"embedder","input":["a"],"dimensions":-1e3,"keep_alive":1e30}`, `{"model":"embedder","prompt":"a","keep_alive":"1ms"}`,
	} {
		f.Add(input)
	}
	f.Fuzz(func(t *testing.T, body string) {
		for _, path := range []string{"/api/embed", "/api/embeddings"} {
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "http://localhost"+path, strings.NewReader(body)))
			var v struct {
				Error      string
				Embeddings [][]float32
				Embedding  []float64
			}
			if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
				t.Fatalf("%s %q: %v: %s", path, body, err, w.Body)
			}
			switch {
			case w.Code == 200 && (v.Embeddings != nil || v.Embedding != nil) && v.Error == "":
			case (w.Code == 400 || w.Code == 404) && v.Error != "":
			case w.Code == 500 && (strings.HasPrefix(v.Error, `option "`) || strings.HasPrefix(v.Error, "unqualified name: ") || v.Error == textTooLong):
			default:
				t.Errorf("%s %q: %d %s", path, body, w.Code, w.Body)
			}
		}
	})
}
