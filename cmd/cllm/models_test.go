package main

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	digestA = "8daa9615cce30c259a9555b1cc250d461d1bc69980a274b44d7eda0be78076d8"
	digestB = "2af3b81862c6be03c769683af18efdadb2c33f60ff32ab6f83e42c043d6c7816"
)

func ago(d time.Duration) string { return time.Now().Add(-d).Format(time.RFC3339Nano) }

func tags() http.HandlerFunc {
	return says(fmt.Sprintf(`{"models":[
		{"name":"qwen3:0.6b","model":"qwen3:0.6b","modified_at":%q,"size":522653767,"digest":%q,"details":{}},
		{"name":"Llama3.2-with-a-long-name:latest","model":"x","modified_at":%q,"size":2019393189,"digest":%q,"details":{}},
		{"name":"far:cloud","model":"far:cloud","remote_model":"far","modified_at":%q,"size":384,"digest":"abc","details":{}}
	]}`, ago(2*time.Hour+time.Minute), digestA, ago(21*24*time.Hour), digestB, ago(3*time.Second)))
}

func TestListPrintsOllamasColumns(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{"GET /api/tags": tags()})
	want := "" +
		"NAME                                ID              SIZE      MODIFIED      \n" +
		"qwen3:0.6b                          8daa9615cce3    522 MB    2 hours ago      \n" +
		"Llama3.2-with-a-long-name:latest    2af3b81862c6    2.0 GB    3 weeks ago      \n" +
		"far:cloud                           abc             -         3 seconds ago    \n"
	wantResult(t, cllm("", "list"), result{Out: want})
	wantResult(t, cllm("", "ls"), result{Out: want})
}

func TestListKeepsNamesWithThePrefixInAnyCase(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{"GET /api/tags": tags()})
	wantResult(t, cllm("", "list", "LLAMA"), result{Out: "" +
		"NAME                                ID              SIZE      MODIFIED    \n" +
		"Llama3.2-with-a-long-name:latest    2af3b81862c6    2.0 GB    3 weeks ago    \n"})
}

func TestListOfNothingIsTheHeader(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{"GET /api/tags": says(`{"models":[]}`), "GET /api/ps": says(`{"models":[]}`)})
	wantResult(t, cllm("", "list"), result{Out: "NAME    ID    SIZE    MODIFIED \n"})
	wantResult(t, cllm("", "ps"), result{Out: "NAME    ID    SIZE    PROCESSOR    CONTEXT    UNTIL \n"})
}

func TestPsPrintsOllamasColumns(t *testing.T) {
	later := func(d time.Duration) string { return ago(-d) }
	newDaemon(t, map[string]http.HandlerFunc{"GET /api/ps": says(fmt.Sprintf(`{"models":[
		{"name":"cpu:latest","digest":%[1]q,"size":1000000000,"size_vram":0,"context_length":4096,"expires_at":%[2]q},
		{"name":"gpu:latest","digest":%[1]q,"size":1000000000,"size_vram":1000000000,"context_length":40960,"expires_at":%[3]q},
		{"name":"both:latest","digest":%[1]q,"size":1000000000,"size_vram":250000000,"context_length":4096,"expires_at":%[4]q},
		{"name":"odd:latest","digest":%[1]q,"size":0,"size_vram":5,"context_length":1,"expires_at":"0001-01-01T00:00:00Z"}
	]}`, digestA, later(4*time.Minute+30*time.Second), "2319-01-01T00:00:00Z", ago(time.Second)))})
	wantResult(t, cllm("", "ps"), result{Out: "" +
		"NAME           ID              SIZE    PROCESSOR          CONTEXT    UNTIL              \n" +
		"cpu:latest     8daa9615cce3    1 GB    100% CPU           4096       4 minutes from now    \n" +
		"gpu:latest     8daa9615cce3    1 GB    100% GPU           40960      Forever               \n" +
		"both:latest    8daa9615cce3    1 GB    75%/25% CPU/GPU    4096       Stopping...           \n" +
		"odd:latest     8daa9615cce3    0 B     Unknown            1          Stopping...           \n"})
	wantResult(t, cllm("", "ps", "gpu"), result{Out: "" +
		"NAME          ID              SIZE    PROCESSOR    CONTEXT    UNTIL   \n" +
		"gpu:latest    8daa9615cce3    1 GB    100% GPU     40960      Forever    \n"})
}

func TestCopyNamesBothModels(t *testing.T) {
	d := newDaemon(t, map[string]http.HandlerFunc{"POST /api/copy": says("")})
	wantResult(t, cllm("", "cp", "a", "b"), result{Out: "copied 'a' to 'b'\n"})
	d.wantJSON("POST /api/copy", `{"source":"a","destination":"b"}`)
}

func TestCopyOfAnUnknownModelFailsWithTheDaemonsText(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{"POST /api/copy": fails(404, `{"error":"model \"a\" not found"}`)})
	wantResult(t, cllm("", "cp", "a", "b"), result{Err: "Error: model \"a\" not found\n", Code: 1})
}

const emptyShow = `{"details":{},"model_info":{},"capabilities":["completion"]}`

var unloaded = says(`{"model":"m","created_at":"2026-01-01T00:00:00Z","response":"","done":true,"done_reason":"unload"}`)

func TestStopUnloadsAtOnce(t *testing.T) {
	d := newDaemon(t, map[string]http.HandlerFunc{"POST /api/show": says(emptyShow), "POST /api/generate": unloaded})
	wantResult(t, cllm("", "stop", "m"), result{})
	d.wantJSON("POST /api/generate", `{"model":"m","prompt":"","suffix":"","system":"","template":"","keep_alive":"0s","options":null}`)
}

func TestStopOfAnUnknownModelSaysSo(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{"POST /api/show": fails(404, `{"error":"model 'm' not found"}`)})
	wantResult(t, cllm("", "stop", "m"), result{Err: "Error: couldn't find model \"m\" to stop\n", Code: 1})
}

func TestStopOfARemoteModelLoadsNothing(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{"POST /api/show": says(`{"remote_host":"https://ollama.com:443","remote_model":"m","details":{},"model_info":{}}`)})
	wantResult(t, cllm("", "stop", "m"), result{})
}

func TestRemoveUnloadsFirstAndStopsAtTheFirstFailure(t *testing.T) {
	d := newDaemon(t, map[string]http.HandlerFunc{
		"POST /api/show":     says(emptyShow),
		"POST /api/generate": inTurn(unloaded, fails(500, `{"error":"engine trouble"}`), unloaded),
		"DELETE /api/delete": inTurn(says(""), says(""), fails(404, `{"error":"model 'c' not found"}`)),
	})
	wantResult(t, cllm("", "rm", "a", "b", "c", "d"), result{
		Out:  "deleted 'a'\ndeleted 'b'\n",
		Err:  "Warning: unable to stop model 'b'\nError: model 'c' not found\n",
		Code: 1,
	})
	want := []string{
		"POST /api/show", "POST /api/generate", "DELETE /api/delete",
		"POST /api/show", "POST /api/generate", "DELETE /api/delete",
		"POST /api/show", "POST /api/generate", "DELETE /api/delete",
	}
	if diff := cmp.Diff(want, d.routesAsked()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}
