package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cllm/llm"
	"cllm/llm/llmtest"
)

// meteredLoader counts the processor time that the fake engine takes.
type meteredLoader struct {
	*fakeLoader
	engine *meteredEngine
}

func (l *meteredLoader) Load(ctx context.Context, spec LoadSpec, progress func(float32)) (*Loaded, error) {
	loaded, err := l.fakeLoader.Load(ctx, spec, progress)
	if err == nil {
		l.engine = &meteredEngine{Engine: loaded.Engine}
		loaded.Engine = l.engine
	}
	return loaded, err
}

type meteredEngine struct {
	llm.Engine
	step <-chan time.Time // a decode waits for it
	mu   sync.Mutex
	took time.Duration
}

func (e *meteredEngine) Decode(rows []llm.Row) (err error) {
	if e.step != nil {
		<-e.step
	}
	e.meter(func() { err = e.Engine.Decode(rows) })
	return err
}

func (e *meteredEngine) Sample(picks []llm.Pick) { e.meter(func() { e.Engine.Sample(picks) }) }

// meter adds what f takes of its thread's processor time.
func (e *meteredEngine) meter(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := cpuTime(unix.CLOCK_THREAD_CPUTIME_ID)
	f()
	took := cpuTime(unix.CLOCK_THREAD_CPUTIME_ID) - before
	e.mu.Lock()
	e.took += took
	e.mu.Unlock()
}

func (e *meteredEngine) total() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.took
}

func cpuTime(clock int32) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(clock, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

const (
	benchStreams = 64
	benchTokens  = 400 // of each stream
	benchStep    = 4 * time.Millisecond
)

// BenchmarkDaemonPerToken streams chats to another process and reports the
// processor time of this one per token: everything from the request to the socket,
// scheduler and kernel included, without the engine's. Steps come at a fixed pace,
// as a model's do, so that each token is a line of its own; "lines/token" says
// how far that was so, and a figure with less than 0.9 is worth nothing.
func BenchmarkDaemonPerToken(b *testing.B) {
	step := make(chan time.Time)
	l := &meteredLoader{fakeLoader: &fakeLoader{}}
	a := serveFake(b, always(""), func(o *Options, e *llmtest.Options) {
		l.fakeLoader = o.Loader.(*fakeLoader)
		o.Loader = l
		e.Next = func(h []llm.Token) llm.Token { return llm.Token('a' + len(h)%26) }
	})
	if r := a.post("/api/chat", `{"model":"thinker"}`); r.status != 200 {
		b.Fatal(r.status, r.body)
	}
	l.engine.step = step
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		tick := time.NewTicker(benchStep)
		defer tick.Stop()
		for {
			select {
			case t := <-tick.C:
				select {
				case step <- t:
				case <-stop:
					close(step)
					return
				}
			case <-stop:
				close(step)
				return
			}
		}
	}()

	var tokens, lines int
	cpu, engine := cpuTime(unix.CLOCK_PROCESS_CPUTIME_ID), l.engine.total()
	for b.Loop() {
		cmd := exec.Command(os.Args[0], "-test.run=^TestReadStreams$", "-test.v")
		cmd.Env = append(os.Environ(), readStreamsFrom+"="+a.url)
		out, err := cmd.CombinedOutput()
		if err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		_, told, _ := strings.Cut(string(out), readStreamsLines)
		var n int
		if _, err := fmt.Sscan(told, &n); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		tokens += benchStreams * benchTokens
		lines += n
	}
	cpu, engine = cpuTime(unix.CLOCK_PROCESS_CPUTIME_ID)-cpu, l.engine.total()-engine
	b.ReportMetric(float64((cpu-engine).Nanoseconds())/1e3/float64(tokens), "cpu-µs/token")
	b.ReportMetric(float64(engine.Nanoseconds())/1e3/float64(tokens), "engine-µs/token")
	b.ReportMetric(float64(lines)/float64(tokens), "lines/token")
	b.ReportMetric(0, "ns/op")
}

// What the benchmark tells the process that reads, and is told by it.
const (
	readStreamsFrom  = "CLLM_TEST_READ_STREAMS_FROM"
	readStreamsLines = "lines read: "
)

// TestReadStreams is the other process of BenchmarkDaemonPerToken.
func TestReadStreams(t *testing.T) {
	url := os.Getenv(readStreamsFrom)
	if url == "" {
		t.Skip("runs for BenchmarkDaemonPerToken only")
	}
	body := fmt.Sprintf(`{"model":"thinker","think":false,"messages":[{"role":"user","content":"?"}],"options":{"num_predict":%d}}`, benchTokens)
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		lines int
	)
	for range benchStreams {
		all.Go(func() {
			res, err := http.Post(url+"/api/chat", "application/json", strings.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			n := 0
			scanner := bufio.NewScanner(res.Body)
			for scanner.Scan() {
				n++
			}
			if err := scanner.Err(); err != nil || res.StatusCode != 200 {
				t.Error(res.Status, err)
			}
			mu.Lock()
			lines += n - 1 // the last has no token
			mu.Unlock()
		})
	}
	all.Wait()
	fmt.Println(readStreamsLines, lines)
}

// BenchmarkRequestToFirstPlan reports the median time from a client's request to
// the engine's first rows of it, over HTTP, with a resident model: of a short chat,
// and of one with a long past and tools.
func BenchmarkRequestToFirstPlan(b *testing.B) {
	long := []map[string]any{{"role": "system", "content": strings.Repeat("Be kind. ", 200)}}
	for i := range 20 {
		long = append(long, map[string]any{"role": []string{"user", "assistant"}[i%2], "content": strings.Repeat("words ", 100)})
	}
	long = append(long, map[string]any{"role": "user", "content": "?"})
	for name, body := range map[string]map[string]any{
		"short": {"model": "thinker", "messages": []map[string]any{{"role": "user", "content": "?"}}},
		"long":  {"model": "thinker", "messages": long, "tools": json.RawMessage(weatherTool), "options": map[string]any{"num_ctx": 1 << 15}},
	} {
		b.Run(name, func(b *testing.B) {
			var mu sync.Mutex
			var first time.Time
			a := serveFake(b, always(""), func(o *Options, e *llmtest.Options) {
				e.Limits.Context = 1 << 15
				e.Next = func([]llm.Token) llm.Token { return llmtest.IMEnd }
				e.BeforeDecode = func([]llm.Row) error {
					mu.Lock()
					defer mu.Unlock()
					if first.IsZero() {
						first = time.Now()
					}
					return nil
				}
			})
			body["stream"] = false
			text, err := json.Marshal(body)
			if err != nil {
				b.Fatal(err)
			}
			var all []time.Duration
			for b.Loop() {
				mu.Lock()
				first = time.Time{}
				mu.Unlock()
				start := time.Now()
				res, err := http.Post(a.url+"/api/chat", "application/json", strings.NewReader(string(text)))
				if err != nil {
					b.Fatal(err)
				}
				answer, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != 200 {
					b.Fatalf("%v: %d %s", err, res.StatusCode, answer)
				}
				mu.Lock()
				all = append(all, first.Sub(start))
				mu.Unlock()
			}
			slices.Sort(all)
			b.ReportMetric(float64(all[len(all)/2].Nanoseconds())/1e6, "median-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}
