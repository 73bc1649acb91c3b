package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ollama/ollama/api"
)

// result is one closed-loop run.
type result struct {
	ok           int
	rate         float64 // generated tokens/s, by the server's own counts
	promptTokens float64 // of one request, on average
	first, whole []time.Duration
}

func (r result) ttft(p int) time.Duration    { return percentile(r.first, p) }
func (r result) latency(p int) time.Duration { return percentile(r.whole, p) }

// percentile is the nearest rank.
func percentile(d []time.Duration, p int) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	return d[max((len(d)*p+99)/100-1, 0)]
}

// median is the run whose rate is in the middle.
func median(rs []result) result {
	rs = slices.SortedFunc(slices.Values(rs), func(a, b result) int {
		switch {
		case a.rate < b.rate:
			return -1
		case a.rate > b.rate:
			return 1
		}
		return 0
	})
	return rs[len(rs)/2]
}

// measure runs o.requests requests from so many clients, each of which sends its
// next request when it has the answer to the last.
func measure(ctx context.Context, s server, o options, clients, round int) (result, error) {
	base, err := url.Parse(s.url)
	if err != nil {
		return result{}, err
	}
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	defer transport.CloseIdleConnections()
	client := api.NewClient(base, &http.Client{Transport: transport, Timeout: 10 * time.Minute})

	var mu sync.Mutex
	var r result
	var generated, prompted int
	var next atomic.Int64
	var group sync.WaitGroup
	start := time.Now()
	for range clients {
		group.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= o.requests || ctx.Err() != nil {
					return
				}
				first, whole, last, err := ask(ctx, client, prompt(o.words, clients, round, i), o.tokens)
				mu.Lock()
				if err != nil {
					fmt.Fprintf(os.Stderr, "request %d failed: %v\n", i, err)
				} else {
					r.ok++
					r.first, r.whole = append(r.first, first), append(r.whole, whole)
					generated += last.EvalCount
					prompted += last.PromptEvalCount
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	r.rate = float64(generated) / time.Since(start).Seconds()
	r.promptTokens = float64(prompted) / float64(max(r.ok, 1))
	return r, ctx.Err()
}

// ask sends one chat request and reads its answer to the end.
func ask(ctx context.Context, client *api.Client, text string, tokens int) (first, whole time.Duration, last api.ChatResponse, err error) {
	start := time.Now()
	req := &api.ChatRequest{
		Model:    modelName,
		Messages: []api.Message{{Role: "user", Content: text}},
		Options:  map[string]any{"num_predict": tokens, "num_ctx": 4096},
	}
	err = client.Chat(ctx, req, func(r api.ChatResponse) error {
		if first == 0 {
			first = time.Since(start)
		}
		last = r
		return nil
	})
	if err == nil && !last.Done {
		err = fmt.Errorf("the answer has no end")
	}
	return first, time.Since(start), last, err
}

var words = strings.Fields(`time year people way day man thing woman life child world school state family student
	group country problem hand part place case week company system program question work government number night
	point home water room mother area money story fact month lot right study book eye job word business issue side
	kind head house service friend father power hour game line end member law car city community name president`)

// prompt is a text of its own for each request of each run, so that no cache helps.
func prompt(n, clients, round, i int) string {
	rng := rand.New(rand.NewPCG(uint64(clients)<<32|uint64(round), uint64(i)))
	out := make([]string, n)
	for j := range out {
		out[j] = words[rng.IntN(len(words))]
	}
	return strings.Join(out, " ")
}
