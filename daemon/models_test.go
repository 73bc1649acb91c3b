package daemon

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/fs/ggml"
	"github.com/ollama/ollama/types/model"

	"cllm/modelstore"
)

// do sends any request.
func (a *testAPI) do(method, path, body string) response {
	a.t.Helper()
	req, err := http.NewRequest(method, a.url+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return response{res.StatusCode, res.Header, string(data)}
}

// into decodes a body.
func into[T any](t *testing.T, r response) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(r.body), &v); err != nil {
		t.Fatalf("%v: %q", err, r.body)
	}
	return v
}

// serveEmpty starts a daemon without models.
func serveEmpty(t *testing.T, change ...func(*Options)) *testAPI {
	t.Helper()
	f := &fakeLoader{}
	o := testOptions(t, f)
	o.KeepAlive = 5 * time.Minute
	for _, c := range change {
		c(&o)
	}
	d := newDaemon(t, o)
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
		f.check(t)
	})
	return &testAPI{Daemon: d, t: t, loader: f, url: "http://" + d.Addr().String()}
}

// gguf returns a model file with one tensor.
func gguf(t *testing.T, more ggml.KV) []byte {
	t.Helper()
	kv := ggml.KV{
		"general.architecture":   "qwen3",
		"general.name":           "Tiny",
		"general.file_type":      uint32(1),
		"qwen3.context_length":   uint32(1024),
		"qwen3.embedding_length": uint32(64),
		"qwen3.block_count":      uint32(2),
		"tokenizer.ggml.tokens":  []string{"a", "b"},
	}
	for k, v := range more {
		kv[k] = v
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "model.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := ggml.WriteGGUF(f, kv, []*ggml.Tensor{
		{Name: "output.weight", Kind: uint32(ggml.TensorTypeF16), Shape: []uint64{3, 2}, WriterTo: bytes.NewReader(make([]byte, 12))},
	}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func digestOf(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

// upload stores a blob by HTTP and returns its digest.
func (a *testAPI) upload(data []byte) string {
	a.t.Helper()
	digest := digestOf(data)
	if r := a.do("POST", "/api/blobs/"+digest, string(data)); r.status != http.StatusCreated || r.body != "" {
		a.t.Fatalf("upload: %d %s", r.status, r.body)
	}
	return digest
}

func TestModelIsMadeListedShownCopiedAndDeleted(t *testing.T) {
	a := serveEmpty(t)
	if r := a.do("GET", "/api/tags", ""); r.status != 200 || r.body != `{"models":[]}` {
		t.Errorf("tags of an empty folder: %d %s", r.status, r.body)
	}
	data := gguf(t, nil)
	digest := a.upload(data)
	r := a.post("/api/create", `{"model":"Tiny","files":{"tiny.gguf":"`+digest+`"},"template":"{{ .Prompt }}!","system":"Be brief.","parameters":{"temperature":0.5,"stop":["a","b"]},"license":["one","two"],"messages":[{"role":"user","content":"hi"}]}`)
	if r.status != 200 || r.header.Get("Content-Type") != "application/x-ndjson" || !strings.HasSuffix(r.body, "{\"status\":\"writing manifest\"}\n{\"status\":\"success\"}\n") {
		t.Fatalf("create: %d %s %q", r.status, r.header.Get("Content-Type"), r.body)
	}
	if !strings.Contains(r.body, `{"status":"parsing GGUF"}`) {
		t.Errorf("progress: %s", r.body)
	}

	list := into[api.ListResponse](t, a.do("GET", "/api/tags", "")).Models
	if len(list) != 1 || list[0].Name != "Tiny:latest" || list[0].Model != "Tiny:latest" || len(list[0].Digest) != 64 || list[0].Size < int64(len(data)) ||
		list[0].Details.Format != "gguf" || list[0].Details.Family != "qwen3" || list[0].Details.QuantizationLevel != "F16" {
		t.Fatalf("tags: %+v", list)
	}

	shown := into[api.ShowResponse](t, a.post("/api/show", `{"model":"tiny"}`))
	want := api.ShowResponse{
		License:    "one\ntwo",
		Parameters: "stop                           \"a\"\nstop                           \"b\"\ntemperature                    0.5",
		Template:   "{{ .Prompt }}!",
		System:     "Be brief.",
		Details:    list[0].Details,
		Messages:   []api.Message{{Role: "user", Content: "hi"}},
		ModelInfo: map[string]any{
			"general.architecture": "qwen3", "general.file_type": 1.0, "general.parameter_count": 6.0,
			"qwen3.context_length": 1024.0, "qwen3.embedding_length": 64.0, "qwen3.block_count": 2.0, "tokenizer.ggml.tokens": nil,
		},
		Tensors:      []api.Tensor{{Name: "output.weight", Type: "F16", Shape: []uint64{3, 2}}},
		Capabilities: []model.Capability{model.CapabilityCompletion},
		ModifiedAt:   list[0].ModifiedAt,
	}
	blob, err := modelstore.ParseDigest(digest)
	if err != nil {
		t.Fatal(err)
	}
	want.Details.ParentModel = a.store.BlobPath(blob) // as in Ollama
	if !strings.HasPrefix(shown.Modelfile, "# Modelfile generated by \"ollama show\"\n# To build a new Modelfile based on this, replace FROM with:\n# FROM Tiny:latest\n\nFROM "+a.store.Dir()) {
		t.Errorf("modelfile: %s", shown.Modelfile)
	}
	shown.Modelfile = ""
	if diff := cmp.Diff(want, shown, cmp.Comparer(func(x, y time.Time) bool { return x.Equal(y) })); diff != "" {
		t.Errorf("show (-want +got):\n%s", diff)
	}
	verbose := into[api.ShowResponse](t, a.post("/api/show", `{"name":"tiny","verbose":true,"system":"Rhyme."}`))
	if diff := cmp.Diff([]any{"a", "b"}, verbose.ModelInfo["tokenizer.ggml.tokens"]); diff != "" {
		t.Errorf("verbose (-want +got):\n%s", diff)
	}
	if verbose.System != "Rhyme." || !strings.Contains(verbose.Modelfile, "Rhyme.") {
		t.Errorf("the request's system text is not shown: %q", verbose.System)
	}

	if r := a.post("/api/copy", `{"source":"tiny","destination":"me/other:v1"}`); r.status != 200 || r.body != "" {
		t.Errorf("copy: %d %s", r.status, r.body)
	}
	if r := a.do("DELETE", "/api/delete", `{"name":"TINY"}`); r.status != 200 || r.body != "" {
		t.Errorf("delete: %d %s", r.status, r.body)
	}
	list = into[api.ListResponse](t, a.do("GET", "/api/tags", "")).Models
	if len(list) != 1 || list[0].Name != "me/other:v1" {
		t.Errorf("tags after copy and delete: %+v", list)
	}
	if _, err := os.Stat(a.store.BlobPath(blob)); err != nil {
		t.Errorf("the copy's blob: %v", err)
	}
	if r := a.do("DELETE", "/api/delete", `{"model":"me/other:v1"}`); r.status != 200 {
		t.Errorf("delete: %d %s", r.status, r.body)
	}
	if r := a.do("HEAD", "/api/blobs/"+digest, ""); r.status != 404 {
		t.Errorf("a blob that nobody needs: %d", r.status)
	}
}

func TestRequestsAboutModelsFailWithOllamasTexts(t *testing.T) {
	a := serveEmpty(t)
	data := gguf(t, nil)
	digest := a.upload(data)
	unknown := digestOf(nil)
	for _, tt := range []struct {
		method, path, body string
		status             int
		text               string
	}{
		{"POST", "/api/show", ``, 400, "missing request body"},
		{"POST", "/api/show", `{"model":`, 400, "unexpected EOF"},
		{"POST", "/api/show", `{}`, 400, "model is required"},
		{"POST", "/api/show", `{"model":"none"}`, 404, "model 'none' not found"},
		{"POST", "/api/show", `{"model":"-a"}`, 500, "unqualified name: registry.ollama.ai/library/-a:latest"},
		{"DELETE", "/api/delete", ``, 400, "missing request body"},
		{"DELETE", "/api/delete", `{}`, 400, `name "" is invalid`},
		{"DELETE", "/api/delete", `{"name":"-a"}`, 400, `name "-a" is invalid`},
		{"DELETE", "/api/delete", `{"model":"none"}`, 404, "model 'none' not found"},
		{"POST", "/api/copy", ``, 400, "missing request body"},
		{"POST", "/api/copy", `{"source":"-a","destination":"b"}`, 400, `source "-a" is invalid`},
		{"POST", "/api/copy", `{"source":"a","destination":"-b"}`, 400, `destination "-b" is invalid`},
		{"POST", "/api/copy", `{"source":"none","destination":"b"}`, 404, `model "none" not found`},
		{"HEAD", "/api/blobs/sha256:123", ``, 400, ""},
		{"HEAD", "/api/blobs/" + unknown, ``, 404, ""},
		{"POST", "/api/blobs/sha256:123", `x`, 400, "invalid digest format"},
		{"POST", "/api/blobs/" + unknown, `x`, 400, fmt.Sprintf(`digest mismatch, expected %q, got %q`, unknown, digestOf([]byte("x")))},
		{"POST", "/api/create", ``, 400, "missing request body"},
		{"POST", "/api/create", `{}`, 400, "invalid model name"},
		{"POST", "/api/create", `{"model":"-a","from":"b"}`, 400, "invalid model name"},
		{"POST", "/api/create", `{"model":"a"}`, 400, "neither 'from' or 'files' was specified"},
		{"POST", "/api/create", `{"model":"a","from":"-b"}`, 400, "invalid model name"},
		{"POST", "/api/create", `{"model":"a","files":{"../x.gguf":"` + digest + `"}}`, 400, "file path must be relative"},
		{"POST", "/api/create", `{"model":"a","files":{"/x.gguf":"` + digest + `"}}`, 400, "file path must be relative"},
	} {
		r := a.do(tt.method, tt.path, tt.body)
		want := ""
		if tt.text != "" {
			text, _ := json.Marshal(map[string]string{"error": tt.text})
			want = string(text)
		}
		if r.status != tt.status || r.body != want {
			t.Errorf("%s %s %s:\n got %d %s\nwant %d %s", tt.method, tt.path, tt.body, r.status, r.body, tt.status, want)
		}
		if tt.text != "" && !strings.HasPrefix(r.header.Get("Content-Type"), "application/json") {
			t.Errorf("%s %s %s: content type %s", tt.method, tt.path, tt.body, r.header.Get("Content-Type"))
		}
	}
	if list := into[api.ListResponse](t, a.do("GET", "/api/tags", "")).Models; len(list) != 0 {
		t.Errorf("models were made: %+v", list)
	}
}

func TestBlobThatIsThereIsNotReadAgain(t *testing.T) {
	a := serveEmpty(t)
	data := gguf(t, nil)
	digest := a.upload(data)
	for _, body := range []string{string(data), "", "something else"} {
		if r := a.do("POST", "/api/blobs/"+digest, body); r.status != 200 || r.body != "" {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
}

func TestBlobMayBeLargerThanABody(t *testing.T) {
	a := serveEmpty(t, func(o *Options) { o.MaxBody = 1000 })
	a.upload(make([]byte, 100_000))
	if r := a.post("/api/show", strings.Repeat(" ", 2000)); r.status != 413 {
		t.Errorf("another body: %d", r.status)
	}
}

func TestCreateAfterTheFirstLineFailsWithALastLine(t *testing.T) {
	a := serveEmpty(t)
	digest := a.upload(gguf(t, nil))
	body := `{"model":"a","files":{"a.gguf":"` + digest + `"},"template":"{{ .Broken"`
	r := a.post("/api/create", body+`}`)
	lines := strings.Split(strings.TrimSuffix(r.body, "\n"), "\n")
	if r.status != 200 || !strings.HasPrefix(lines[len(lines)-1], `{"error":"template error: `) {
		t.Errorf("stream: %d %q", r.status, lines)
	}
	r = a.post("/api/create", body+`,"stream":false}`)
	if r.status != 400 || !strings.HasPrefix(r.body, `{"error":"template error: `) {
		t.Errorf("no stream: %d %s", r.status, r.body)
	}
}

func TestCreateWithoutStreamAnswersOnce(t *testing.T) {
	a := serveEmpty(t)
	digest := a.upload(gguf(t, nil))
	r := a.post("/api/create", `{"model":"a","files":{"a.gguf":"`+digest+`"},"stream":false}`)
	if r.status != 200 || r.body != `{"status":"success"}` || r.header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %s %s", r.status, r.header.Get("Content-Type"), r.body)
	}
	if r = a.post("/api/create", `{"model":"b","from":"a","system":"s","stream":false}`); r.body != `{"status":"success"}` {
		t.Errorf("from: %s", r.body)
	}
	if shown := into[api.ShowResponse](t, a.post("/api/show", `{"model":"b"}`)); shown.System != "s" {
		t.Errorf("shown: %+v", shown)
	}
}

func TestPsTellsWhatIsInMemory(t *testing.T) {
	a := serveEmpty(t)
	if r := a.do("GET", "/api/ps", ""); r.body != `{"models":[]}` {
		t.Errorf("ps without models: %s", r.body)
	}
	a.loader.size = 1000
	for _, name := range []string{"a", "b", "c"} {
		a.createFrom(ggml.KV{"general.architecture": "qwen3", "general.name": name}, name, modelstore.CreateRequest{Template: chatML})
	}
	a.post("/api/generate", `{"model":"a","keep_alive":"10m"}`)
	a.post("/api/generate", `{"model":"b","keep_alive":-1}`)
	a.post("/api/generate", `{"model":"c","options":{"num_ctx":1000}}`)
	before := time.Now()
	list := into[api.ProcessResponse](t, a.do("GET", "/api/ps", "")).Models
	if len(list) != 3 || list[0].Name != "b:latest" || list[1].Name != "a:latest" || list[2].Model != "c:latest" {
		t.Fatalf("ps: %+v", list)
	}
	if list[0].ExpiresAt.Year() < 2300 {
		t.Errorf("for ever is %s", list[0].ExpiresAt)
	}
	if left := list[1].ExpiresAt.Sub(before); left < 9*time.Minute || left > 10*time.Minute {
		t.Errorf("ten minutes are %s", left)
	}
	if list[1].ContextLength != 4096 || list[2].ContextLength != 1000 || list[1].Size != 1000 || len(list[1].Digest) != 64 || list[1].Details.Family != "qwen3" {
		t.Errorf("ps: %+v", list[1:])
	}
	if r := a.post("/api/generate", `{"model":"b","keep_alive":0}`); !strings.Contains(r.body, `"done_reason":"unload"`) {
		t.Errorf("unload: %s", r.body)
	}
	if list := into[api.ProcessResponse](t, a.do("GET", "/api/ps", "")).Models; len(list) != 2 {
		t.Errorf("ps after the unload: %+v", list)
	}
}

func TestMetricsTellWhatGoesOn(t *testing.T) {
	a := serveEmpty(t)
	a.create("a", modelstore.CreateRequest{Template: chatML})
	a.post("/api/generate", `{"model":"a","prompt":"hi","raw":true,"stream":false,"options":{"num_predict":5}}`)
	waitFor(t, "the slot to be free", func() bool {
		s := a.resident.list()[0].stats
		return s.FinishedOK == 1 && s.Active == 0
	})
	r := a.do("GET", "/metrics", "")
	if r.status != 200 || !strings.HasPrefix(r.header.Get("Content-Type"), "text/plain") {
		t.Fatalf("%d %s", r.status, r.header.Get("Content-Type"))
	}
	for _, line := range []string{
		"cllm_requests_waiting 0\n",
		"cllm_requests_waiting_limit 512\n",
		"cllm_connections_refused_total 0\n",
		`cllm_slots{model="a:latest"} 64` + "\n",
		`cllm_slots_active{model="a:latest"} 0` + "\n",
		`cllm_tokens_total{kind="generated",model="a:latest"} 5` + "\n",
		`cllm_requests_total{model="a:latest",result="ok"} 1` + "\n",
	} {
		if !strings.Contains(r.body, line) {
			t.Errorf("no line %q in:\n%s", line, r.body)
		}
	}
}

func TestAllRequestsAreServedWhileModelsComeAndGo(t *testing.T) {
	a := serveEmpty(t, func(o *Options) { o.MaxLoaded = 1 })
	for _, name := range []string{"a", "b"} {
		a.createFrom(ggml.KV{"general.architecture": "qwen3", "general.name": name}, name, modelstore.CreateRequest{Template: chatML})
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	errs := make(chan error)
	const clients, rounds = 8, 5
	for i := range clients {
		go func() {
			for j := range rounds {
				m, err := a.lookup([]string{"a", "b"}[(i+j)%2])
				if err == nil {
					var l *lease
					if l, err = a.resident.acquire(ctx, m, auto, nil); err == nil {
						l.release()
					}
				}
				errs <- err
			}
		}()
	}
	for range clients * rounds {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
