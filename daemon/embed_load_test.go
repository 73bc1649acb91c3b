package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ollama/ollama/api"

	"cllm/llm"
	"cllm/llm/llmtest"
)

func TestManyInputsAndManyRequestsShareBatches(t *testing.T) {
	hold := make(chan struct{})
	a := serveFake(t, always("ok"), func(o *Options, _ *llmtest.Options) {
		o.Loader.(*fakeLoader).embed.BeforeEmbed = func([]llm.EmbedPart) error { <-hold; return nil }
	})
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	var requests sync.WaitGroup
	ask := func(n int) {
		var texts []string
		for i := range 10 {
			texts = append(texts, fmt.Sprintf("%d-%d", n, i))
		}
		input, _ := json.Marshal(texts)
		v := embedded(t, a.post("/api/embed", fmt.Sprintf(`{"model":"embedder","input":%s}`, input)))
		for i, text := range texts {
			wantEmbedding(t, text, v.Embeddings[i], length1(text, 8))
		}
	}
	for n := range 20 {
		requests.Go(func() { ask(n) })
	}
	waitFor(t, "all requests", func() bool {
		for _, r := range a.resident.list() {
			return r.embed.Active+r.embed.Waiting > 0 && a.inEmbeddings() == 20
		}
		return false
	})
	release()
	requests.Wait()
	calls := a.loader.embedders[0].Calls()
	if len(calls) > 8 {
		t.Errorf("200 texts took the batches %v", calls)
	}
	if n := len(a.loader.loads()); n != 1 || !a.loader.loads()[0].Embeddings || len(a.loader.engines) != 0 {
		t.Errorf("%d loads, %d engines", n, len(a.loader.engines))
	}
}

// inEmbeddings is how many requests hold a lease.
func (a *testAPI) inEmbeddings() int {
	q := leases{make(chan int, 1)}
	a.resident.send(q)
	return <-q.answer
}

// leases asks how many there are.
type leases struct{ answer chan int }

func (e leases) happen(r *residency) {
	n := 0
	for _, m := range r.residents {
		n += m.leases
	}
	e.answer <- n
}

func TestAnswersAndEmbeddingsShareOneModel(t *testing.T) {
	a := serveFake(t, always("ok"))
	a.post("/api/chat", `{"model":"plain","messages":[{"role":"user","content":"hi"}]}`)
	if n := len(a.loader.embedders); n != 0 {
		t.Errorf("%d embedders for a chat", n)
	}
	for range 2 {
		embedded(t, a.post("/api/embed", `{"model":"plain","input":"a"}`))
		a.post("/api/chat", `{"model":"plain","messages":[{"role":"user","content":"hi"}]}`)
	}
	if l := a.loader; len(l.loads()) != 1 || len(l.engines) != 1 || len(l.embedders) != 1 {
		t.Errorf("%d loads, %d engines, %d embedders", len(l.loads()), len(l.engines), len(l.embedders))
	}
	list := a.resident.list()
	if len(list) != 1 || list[0].embed.Texts != 2 || list[0].embed.FinishedOK != 2 || list[0].stats.FinishedOK != 3 {
		t.Errorf("%+v", list)
	}
	if r := a.post("/api/generate", `{"model":"plain","keep_alive":0}`); r.status != 200 {
		t.Errorf("unload: %s", r.body)
	}
	waitFor(t, "the unload", func() bool { return a.loader.freed() == 1 })
}

func TestAnEmbeddingModelIsListedKeptAndStoppedAsOthers(t *testing.T) {
	a := serveFake(t, always("ok"), func(o *Options, _ *llmtest.Options) {
		o.Loader.(*fakeLoader).size = 1000
		o.Loader.(*fakeLoader).embed.Limits = llm.EmbedLimits{Batch: 10, BufferBytes: 5000}
	})
	embedded(t, a.post("/api/embed", `{"model":"embedder","input":"a","keep_alive":"10m","options":{"num_ctx":100}}`))
	list := func() []api.ProcessModelResponse {
		res, err := http.Get(a.url + "/api/ps")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var v api.ProcessResponse
		if err := json.NewDecoder(res.Body).Decode(&v); err != nil {
			t.Fatal(err)
		}
		return v.Models
	}
	if l := list(); len(l) != 1 || l[0].Name != "embedder:latest" || l[0].Size != 1500 || l[0].ContextLength != 100 ||
		time.Until(l[0].ExpiresAt) < 9*time.Minute {
		t.Errorf("%+v", l)
	}
	if r := a.post("/api/chat", `{"model":"embedder","messages":[{"role":"user","content":"hi"}]}`); r.status != 400 || errorText(t, r) != `"embedder" does not support chat` {
		t.Errorf("chat: %d %s", r.status, r.body)
	}
	a.post("/api/embed", `{"model":"embedder","input":[],"keep_alive":0}`)
	waitFor(t, "the unload", func() bool { return len(list()) == 0 && a.loader.freed() == 1 })
	a.post("/api/embeddings", `{"model":"embedder","prompt":"a","keep_alive":0}`)
	waitFor(t, "the unload", func() bool { return a.loader.freed() == 2 })
	a.post("/api/embed", `{"model":"embedder","input":"a","keep_alive":-1}`)
	if l := list(); len(l) != 1 || l[0].ExpiresAt.Year() < 2200 {
		t.Errorf("%+v", l)
	}
	a.post("/api/generate", `{"model":"embedder","keep_alive":0}`) // as `ollama stop` does
	waitFor(t, "the unload", func() bool { return a.loader.freed() == 3 })
}

func TestEmbeddingsWithoutAPlaceInTheQueueAreRefused(t *testing.T) {
	hold := make(chan struct{})
	a := serveFake(t, always("ok"), func(o *Options, _ *llmtest.Options) {
		o.Slots, o.MaxQueue = 1, 2
		o.Loader.(*fakeLoader).embed.BeforeEmbed = func([]llm.EmbedPart) error { <-hold; return nil }
	})
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	a.post("/api/embed", `{"model":"embedder"}`) // who waits for a load has a place, too
	var requests sync.WaitGroup
	for range 3 {
		requests.Go(func() { embedded(t, a.post("/api/embed", `{"model":"embedder","input":"a"}`)) })
	}
	waitFor(t, "a full queue", func() bool { return a.queue.Waiting() == 2 && a.inEmbeddings() == 3 })
	for path, body := range map[string]string{"/api/embed": `{"model":"embedder","input":"a"}`, "/api/embeddings": `{"model":"embedder","prompt":"a"}`} {
		r := a.post(path, body)
		if r.status != 503 || r.header.Get("Retry-After") == "" || errorText(t, r) != textBusy {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
	release()
	requests.Wait()
}

func TestAClientThatLeavesFreesItsPlaceAmongTheEmbeddings(t *testing.T) {
	hold := make(chan struct{})
	a := serveFake(t, always("ok"), func(o *Options, _ *llmtest.Options) {
		o.Slots = 1
		o.Loader.(*fakeLoader).embed.BeforeEmbed = func([]llm.EmbedPart) error { <-hold; return nil }
	})
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	ctx, leave := context.WithCancel(t.Context())
	for range 5 {
		go func() {
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, a.url+"/api/embed", strings.NewReader(`{"model":"embedder","input":["a","b"]}`))
			if res, err := http.DefaultClient.Do(req); err == nil {
				res.Body.Close()
			}
		}()
	}
	waitFor(t, "the requests", func() bool { return a.queue.Waiting() == 4 && a.inEmbeddings() == 5 })
	leave()
	waitFor(t, "their end", func() bool { return a.inEmbeddings() == 0 }) // though the call goes on
	release()
	embedded(t, a.post("/api/embed", `{"model":"embedder","input":"a"}`))
	if n := a.queue.Waiting(); n != 0 {
		t.Errorf("%d places are taken", n)
	}
}

func TestStopEndsEmbeddingsThatWait(t *testing.T) {
	hold := make(chan struct{})
	a := serveFake(t, always("ok"), func(o *Options, _ *llmtest.Options) {
		o.Slots, o.StopTimeout = 1, time.Millisecond
		o.Loader.(*fakeLoader).embed.BeforeEmbed = func([]llm.EmbedPart) error { <-hold; return nil }
	})
	answers := make(chan response)
	for range 3 {
		go func() { answers <- a.post("/api/embed", `{"model":"embedder","input":"a"}`) }()
	}
	waitFor(t, "the requests", func() bool { return a.queue.Waiting() == 2 && a.inEmbeddings() == 3 })
	stopped := make(chan error)
	go func() { stopped <- a.Stop() }()
	waitFor(t, "the stop", func() bool { _, err := http.Get(a.url); return err != nil })
	close(hold) // the call in progress can't be ended by a fake
	for range 3 {
		if r := <-answers; r.status != 200 && !(r.status == 500 && errorText(t, r) == textStopped) {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestALostEmbedderIsReplacedForTheNextRequest(t *testing.T) {
	a := serveFake(t, always("ok"))
	a.loader.embed.BeforeEmbed = func([]llm.EmbedPart) error { return fmt.Errorf("%w: out of device memory", llm.ErrFatal) }
	for _, model := range []string{"embedder", "plain"} {
		r := a.post("/api/embed", fmt.Sprintf(`{"model":%q,"input":"a"}`, model))
		if text := errorText(t, r); r.status != 500 || !strings.HasPrefix(text, "an error was encountered while running the model: ") || !strings.HasSuffix(text, "out of device memory") {
			t.Errorf("%s: %d %s", model, r.status, r.body)
		}
	}
	a.loader.embed.BeforeEmbed = nil
	for _, model := range []string{"embedder", "plain"} {
		embedded(t, a.post("/api/embed", fmt.Sprintf(`{"model":%q,"input":"a"}`, model)))
	}
	if n := len(a.loader.loads()); n != 4 {
		t.Errorf("%d loads", n)
	}
	a.post("/api/chat", `{"model":"plain","messages":[{"role":"user","content":"hi"}]}`)
}
