package daemon

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", test.path, test.body, diff)
		}
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
