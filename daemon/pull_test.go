package daemon

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ollama/ollama/api"

	"cllm/llm/llmtest"
	"cllm/modelstore/modelstoretest"
)

// serveWith starts a daemon that reaches a registry under the default host.
func serveWith(t *testing.T, reg *modelstoretest.Registry) *testAPI {
	t.Helper()
	network := modelstoretest.NewNetwork(t, map[string]http.Handler{"registry.ollama.ai": reg})
	return serveFake(t, always("hello"), func(o *Options, _ *llmtest.Options) { o.transport = network.Transport() })
}

// posted returns the status, the content type and the body of an answer.
func posted(t *testing.T, a *testAPI, path, body string) (status int, contentType, text string) {
	t.Helper()
	res, err := http.Post(a.url+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header.Get("Content-Type"), string(raw)
}

// lastOfEach leaves, of the lines that tell how far a blob is, the last one: how many
// there are depends on the clock.
func lastOfEach(text string) string {
	var lines []string
	for line := range strings.SplitAfterSeq(text, "\n") {
		blob, _, counts := strings.Cut(line, `","total":`)
		if n := len(lines); counts && n > 0 && strings.HasPrefix(lines[n-1], blob) {
			lines[n-1] = line
			continue
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "")
}

func TestPullAndPushAnswerAsOllamaDoes(t *testing.T) {
	reg := modelstoretest.NewRegistry()
	m := reg.AddModel("library/remote:latest", []byte("weights"))
	weights, config := m.Layers[0].Digest, m.Config.Digest
	a := serveWith(t, reg)
	const lines, object, whole = "application/x-ndjson", "application/json", "application/json; charset=utf-8"
	missing := "open " + a.opts.Models + "/manifests/registry.ollama.ai/library/nowhere/latest: no such file or directory"
	tests := []struct {
		path, body  string
		status      int
		contentType string
		want        string
	}{
		{"/api/pull", `{"model":"nowhere"}`, 200, lines, `{"status":"pulling manifest"}` + "\n" + `{"error":"pull model manifest: file does not exist"}` + "\n"},
		{"/api/pull", `{"model":"nowhere","stream":false}`, 500, object, `{"error":"pull model manifest: file does not exist"}`},
		{"/api/pull", `{"model":"../x"}`, 400, whole, `{"error":"invalid model name"}`},
		{"/api/pull", `{}`, 400, whole, `{"error":"invalid model name"}`},
		{"/api/pull", ``, 400, whole, `{"error":"missing request body"}`},
		{"/api/pull", `{"name":"remote"}`, 200, lines, `{"status":"pulling manifest"}` + "\n" +
			`{"status":"pulling ` + weights[7:19] + `","digest":"` + weights + `","total":7,"completed":7}` + "\n" +
			`{"status":"pulling ` + config[7:19] + `","digest":"` + config + `","total":46,"completed":46}` + "\n" +
			`{"status":"verifying sha256 digest"}` + "\n" + `{"status":"writing manifest"}` + "\n" + `{"status":"success"}` + "\n"},
		{"/api/pull", `{"model":"remote","stream":false}`, 200, object, `{"status":"success"}`},
		{"/api/push", `{"model":"nowhere"}`, 200, lines, `{"status":"retrieving manifest"}` + "\n" + `{"status":"couldn't retrieve manifest"}` + "\n" + `{"error":"` + missing + `"}` + "\n"},
		{"/api/push", `{"model":"nowhere","stream":false}`, 500, object, `{"error":"` + missing + `"}`},
		{"/api/push", `{"model":"a//b","stream":false}`, 500, object, `{"error":"unqualified name: a/!MISSING!/b:latest"}`},
		{"/api/push", `{}`, 400, whole, `{"error":"model is required"}`},
		{"/api/push", `{"model":"remote","stream":false}`, 200, object, `{"status":"success"}`},
		{"/api/push", `{"model":"remote"}`, 200, lines, `{"status":"retrieving manifest"}` + "\n" +
			`{"status":"pushing ` + weights[7:19] + `","digest":"` + weights + `","total":7,"completed":7}` + "\n" +
			`{"status":"pushing ` + config[7:19] + `","digest":"` + config + `","total":46,"completed":46}` + "\n" +
			`{"status":"pushing manifest"}` + "\n" + `{"status":"success"}` + "\n"},
	}
	for _, test := range tests {
		status, contentType, got := posted(t, a, test.path, test.body)
		if status != test.status || !strings.HasPrefix(contentType, strings.TrimSuffix(test.contentType, "; charset=utf-8")) {
			t.Errorf("%s %s: %d, %s", test.path, test.body, status, contentType)
		}
		if diff := cmp.Diff(test.want, lastOfEach(got)); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", test.path, test.body, diff)
		}
	}
}

func TestCreateOfAModelThatIsNotHerePullsItFirst(t *testing.T) {
	reg := modelstoretest.NewRegistry()
	weights := gguf(t, nil)
	m := reg.AddModel("library/base:latest", weights)
	reg.AddModel("library/other:latest", weights)
	layer, config := m.Layers[0].Digest, m.Config.Digest
	a := serveWith(t, reg)

	status, contentType, got := posted(t, a, "/api/create", `{"model":"mine","from":"base","system":"Be brief."}`)
	begin := `{"status":"pulling manifest"}` + "\n" +
		`{"status":"pulling ` + layer[7:19] + `","digest":"` + layer + `","total":` + fmt.Sprint(len(weights)) + `,"completed":` + fmt.Sprint(len(weights)) + `}` + "\n" +
		`{"status":"pulling ` + config[7:19] + `","digest":"` + config + `","total":46,"completed":46}` + "\n" +
		`{"status":"verifying sha256 digest"}` + "\n" + `{"status":"writing manifest"}` + "\n" +
		`{"status":"using existing layer ` + layer + `"}` + "\n"
	if status != 200 || !strings.HasPrefix(contentType, typeLines) || !strings.HasPrefix(lastOfEach(got), begin) || !strings.HasSuffix(got, "\n"+`{"status":"success"}`+"\n") {
		t.Errorf("%d, %s:\n%s\nwant it to begin with\n%s", status, contentType, got, begin)
	}
	if n := strings.Count(got, `"success"`); n != 1 {
		t.Errorf("success is told %d times; clients leave at the first", n)
	}
	if shown := into[api.ShowResponse](t, a.post("/api/show", `{"model":"mine"}`)); shown.System != "Be brief." {
		t.Errorf("shown: %+v", shown)
	}

	if status, _, got = posted(t, a, "/api/create", `{"model":"too","from":"other","stream":false}`); status != 200 || got != `{"status":"success"}` {
		t.Errorf("no stream: %d %s", status, got)
	}
	for _, name := range []string{"base", "other", "too"} {
		if r := a.post("/api/show", `{"model":"`+name+`"}`); r.status != 200 {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	reg.Asked()
	if status, _, got = posted(t, a, "/api/create", `{"model":"mine","from":"BASE"}`); status != 200 || len(reg.Asked()) != 0 {
		t.Errorf("what is here is asked for again: %d %s", status, got)
	}
}

func TestCreateOfAModelThatCanNotBePulledFailsAsThePullDoes(t *testing.T) {
	a := serveWith(t, modelstoretest.NewRegistry())
	status, _, got := posted(t, a, "/api/create", `{"model":"mine","from":"nowhere"}`)
	if want := `{"status":"pulling manifest"}` + "\n" + `{"error":"pull model manifest: file does not exist"}` + "\n"; status != 200 || got != want {
		t.Errorf("%d %s, want %s", status, got, want)
	}
	status, _, got = posted(t, a, "/api/create", `{"model":"mine","from":"nowhere","stream":false}`)
	if want := `{"error":"pull model manifest: file does not exist"}`; status != 500 || got != want {
		t.Errorf("%d %s, want %s", status, got, want)
	}
	if r := a.post("/api/show", `{"model":"mine"}`); r.status != 404 {
		t.Errorf("a model was made: %s", r.body)
	}
}

func TestAClientThatLeavesEndsItsPull(t *testing.T) {
	reg := modelstoretest.NewRegistry()
	reg.AddModel("library/remote:latest", []byte("weights"))
	held := make(chan struct{}, 1)
	left := make(chan struct{})
	reg.On("GET", "/blobs/", 1, func(w http.ResponseWriter, req *http.Request, serve http.Handler) {
		modelstoretest.Hold(held, nil)(w, req, serve)
		close(left)
	})
	a := serveWith(t, reg)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url+"/api/pull", strings.NewReader(`{"model":"remote"}`))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	<-held
	cancel()
	<-left // the daemon's request to the registry has ended
}

func TestADaemonThatStopsEndsItsPulls(t *testing.T) {
	reg := modelstoretest.NewRegistry()
	reg.AddModel("library/remote:latest", []byte("weights"))
	held := make(chan struct{}, 1)
	reg.On("GET", "/blobs/", 1, modelstoretest.Hold(held, nil))
	network := modelstoretest.NewNetwork(t, map[string]http.Handler{"registry.ollama.ai": reg})
	a := serveFake(t, always("hello"), func(o *Options, _ *llmtest.Options) {
		o.transport = network.Transport()
		o.StopTimeout = 1 // a nanosecond
	})
	go http.Post(a.url+"/api/pull", "application/json", strings.NewReader(`{"model":"remote"}`)) // it fails or ends
	<-held
	if err := a.Stop(); err != nil {
		t.Error(err)
	}
}
