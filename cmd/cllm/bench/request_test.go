package bench

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var apis = []string{apiOllama, apiOpenAI}

func TestEveryWayToLoseAReplyHasItsReason(t *testing.T) {
	tests := map[string]struct {
		answer       func(*speaker)
		reason, text string
	}{
		"reset before the reply":   {func(s *speaker) { s.reset() }, reasonReset, "reset"},
		"reset within the stream":  {func(s *speaker) { s.chunk("a"); s.reset() }, reasonBroken, "reset"},
		"closed within the stream": {func(s *speaker) { s.chunk("a"); panic(http.ErrAbortHandler) }, reasonBroken, "unexpected EOF"},
		"no final event":           {func(s *speaker) { s.chunk("a") }, reasonBroken, "without a final event"},
		"busy":                     {func(s *speaker) { s.w.WriteHeader(503); s.w.Write([]byte(`{"error":"server busy"}`)) }, "HTTP 503", "server busy"},
		"OpenAI's error":           {func(s *speaker) { s.w.WriteHeader(429); s.w.Write([]byte(`{"error":{"message":"slow down"}}`)) }, "HTTP 429", "slow down"},
		"an error without form":    {func(s *speaker) { http.Error(s.w, "bad gateway", http.StatusBadGateway) }, "HTTP 502", "bad gateway"},
		"error within the stream":  {func(s *speaker) { s.chunk("a"); s.line(`{"error":"out of memory"}`) }, reasonReported, "out of memory"},
		"no JSON at the end":       {func(s *speaker) { s.line(`{"done":true,"usage":{]`) }, reasonReported, "no JSON"},
		"a line too long":          {func(s *speaker) { s.chunk(strings.Repeat("a", maxLine)) }, reasonBroken, "too long"},
		"too many tokens":          {func(s *speaker) { s.chunk("a"); s.end(5, "length") }, reasonCount, "counts 5 tokens, more than the 4"},
		"too few tokens":           {func(s *speaker) { s.chunk("a"); s.chunk("b"); s.end(1, "length") }, reasonCount, "counts 1 tokens, but sent 2 chunks"},
		"no tokens":                {func(s *speaker) { s.end(0, "length") }, reasonCount, "counts 0 tokens"},
		"text without end": {func(s *speaker) {
			for s.r.Context().Err() == nil {
				s.chunk("a")
			}
		}, reasonCount, "more chunks with text than the 4"},
	}
	for name, test := range tests {
		for _, api := range apis {
			t.Run(name+"/"+api, func(t *testing.T) {
				f := &fake{api: api}
				f.answer = func(s *speaker) {
					if s.n == 2 {
						test.answer(s)
					} else {
						speaks(s)
					}
				}
				m := one(t, small(listen(t, f)))
				if m.Completed != 5 || m.Failed != 1 || len(m.Failures) != 1 {
					t.Fatalf("%d completed, %d failed: %v; want 5 and 1", m.Completed, m.Failed, m.Failures)
				}
				if got := m.Failures[0]; got.Reason != test.reason || !strings.Contains(got.First, test.text) || got.Count != 1 {
					t.Errorf("the failure is %+v, want %s with %q", got, test.reason, test.text)
				}
				if len(f.asked) != 6 {
					t.Errorf("the server was asked %d times for 6 requests", len(f.asked))
				}
				if m.OutputTokens != 5*4 || m.ITL.Count != 5*3 {
					t.Errorf("%d tokens and %d gaps, want those of the 5 whole replies: 20 and 15", m.OutputTokens, m.ITL.Count)
				}
			})
		}
	}
}

func TestAServerThatGoesAwayRefusesTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{api: apiOllama}
		net, stop := newNetwork(map[string]*fake{"a": f})
		defer stop()
		f.answer = func(s *speaker) {
			delete(net, "a:80") // the one client waits for its reply
			panic(http.ErrAbortHandler)
		}
		o := small("http://a")
		o.Concurrency, o.dial = []int{1}, net.dial
		m := one(t, o)
		if len(m.Failures) != 2 || m.Failures[0].Reason != reasonReset || m.Failures[1].Reason != reasonRefused || m.Failures[1].Count != 5 {
			t.Errorf("the failures are %v, want one reset and 5 refused", m.Failures)
		}
	})
}

func TestARequestThatTakesTooLongIsATimeout(t *testing.T) {
	for _, begun := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f := &fake{api: apiOllama, answer: func(s *speaker) {
				if begun {
					s.chunk("a")
				}
				<-s.r.Context().Done()
			}}
			net, stop := newNetwork(map[string]*fake{"a": f})
			defer stop()
			o := small("http://a")
			o.dial, o.Timeout = net.dial, 3*time.Second
			start := time.Now()
			m := one(t, o)
			if len(m.Failures) != 1 || m.Failures[0].Reason != reasonTimeout || m.Failures[0].Count != 6 {
				t.Errorf("the failures are %v, want 6 timeouts", m.Failures)
			}
			if took := time.Since(start); took != 9*time.Second {
				t.Errorf("6 requests of 2 clients took %v, want 9 s", took)
			}
		})
	}
}

func TestARepliesEarlyEndIsNoFailure(t *testing.T) {
	for _, api := range apis {
		for _, tokens := range []int{0, 1, 3} {
			f := &fake{api: api, answer: func(s *speaker) {
				for range max(tokens-1, 0) { // the end token has no text
					s.chunk("a")
				}
				s.end(tokens, "stop")
			}}
			m := one(t, small(listen(t, f)))
			if m.Failed != 0 || m.EndedEarly != 6 || m.OutputTokens != 6*tokens {
				t.Errorf("%s with %d tokens: %d failed, %d ended early, %d tokens; want 0, 6, %d",
					api, tokens, m.Failed, m.EndedEarly, m.OutputTokens, 6*tokens)
			}
		}
	}
}

func TestAReplyThatEndsWithItsLastTokenIsNotEarly(t *testing.T) {
	f := &fake{api: apiOllama, answer: func(s *speaker) { s.chunk("a"); s.end(s.max, "stop") }}
	if m := one(t, small(listen(t, f))); m.EndedEarly != 0 || m.Completed != 6 {
		t.Errorf("%d of %d ended early, want none of 6", m.EndedEarly, m.Completed)
	}
}

func TestTextIsFoundWithoutDecoding(t *testing.T) {
	tests := map[string]struct {
		api, line string
		chunks    int
		ended     bool
	}{
		"text":                  {apiOllama, `{"response":"a","done":false}`, 1, false},
		"spaces":                {apiOllama, `{"response": "a", "done": false}`, 1, false},
		"thinking":              {apiOllama, `{"response":"","thinking":"hm","done":false}`, 1, false},
		"no text":               {apiOllama, `{"response":"","done":false}`, 0, false},
		"a quote":               {apiOllama, `{"response":"\"","done":false}`, 1, false},
		"text that looks alike": {apiOllama, `{"response":"","context":"\"response\":\"x\",\"done\":true,\"error\":\"x\"","done":false}`, 0, false},
		"done":                  {apiOllama, `{"response":"","done":true}`, 0, true},
		"done with text":        {apiOllama, `{"response":"a","done": true}`, 1, true},
		"event":                 {apiOpenAI, `data: {"choices":[{"text":"a","finish_reason":null}]}`, 1, false},
		"event without space":   {apiOpenAI, `data:{"choices":[{"text":"a"}]}`, 1, false},
		"empty event":           {apiOpenAI, `data: {"choices":[{"text":"","finish_reason":null}],"usage":null}`, 0, false},
		"comment":               {apiOpenAI, `: ping "text":"a"`, 0, false},
		"end of the events":     {apiOpenAI, `data: [DONE]`, 0, true},
	}
	for name, test := range tests {
		r := &reply{maxTokens: 10}
		if err := protocols[test.api].line([]byte(test.line), r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if r.chunks != test.chunks || r.ended != test.ended {
			t.Errorf("%s: %d chunks, ended %v; want %d, %v", name, r.chunks, r.ended, test.chunks, test.ended)
		}
	}
	r := new(reply)
	if err := protocols[apiOpenAI].line([]byte(`error: {"error":{"message":"no slot"}}`), r); err == nil || err.Error() != `no slot` {
		t.Errorf("llama-server's error event: %v", err)
	}
}

func TestALoadIsInterruptedWithoutFailures(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := &fake{api: apiOllama, answer: func(s *speaker) {
		if s.n == 3 {
			cancel()
			<-s.r.Context().Done()
		}
		speaks(s)
	}}
	o := small(listen(t, f))
	o.Concurrency = []int{1, 2}
	r, err := Run(ctx, o)
	if err != context.Canceled || r == nil || !r.Interrupted {
		t.Fatalf("the run ends with %v and %+v, want context.Canceled and a report", err, r)
	}
	if m := r.Measurements; len(m) != 1 || !m[0].Interrupted || m[0].Completed != 3 || m[0].Failed != 0 {
		t.Errorf("the measurements are %+v, want one with 3 completed", m)
	}
}

func BenchmarkReadLine(b *testing.B) {
	lines := map[string]string{
		apiOllama: `{"model":"qwen3:0.6b","created_at":"2026-11-26T01:00:00.123456789Z","response":" word","done":false}`,
		apiOpenAI: `data: {"id":"cmpl-1","object":"text_completion","created":1795655310,"model":"m","choices":[{"text":" word","index":0,"finish_reason":null}],"usage":null}`,
	}
	for _, api := range apis {
		b.Run(api, func(b *testing.B) {
			line := []byte(lines[api])
			r := &reply{maxTokens: 1 << 60}
			b.ReportAllocs()
			for b.Loop() {
				r.gaps = r.gaps[:0]
				if err := protocols[api].line(line, r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestLlamaServersLastChunkHasTextReasonAndCounts(t *testing.T) {
	// As to_json_oaicompat in llama.cpp's tools/server/server-task.cpp makes it.
	r := &reply{maxTokens: 4}
	line := `data: {"choices":[{"text":" end","index":0,"logprobs":null,"finish_reason":"stop"}],"created":1,"model":"m","system_fingerprint":"b1",` +
		`"object":"text_completion","usage":{"completion_tokens":3,"prompt_tokens":30,"total_tokens":33,"prompt_tokens_details":{"cached_tokens":0}},` +
		`"id":"c","timings":{"prompt_n":30,"prompt_ms":1.5,"predicted_n":3,"predicted_ms":2.5}}`
	for _, l := range []string{line, "", "data: [DONE]"} {
		if err := protocols[apiOpenAI].line([]byte(l), r); err != nil {
			t.Fatal(err)
		}
	}
	if !r.ended || !r.early || r.chunks != 1 || r.tokens != 3 || r.promptTokens != 30 || r.check() != nil {
		t.Errorf("the reply is %+v, %v", r, r.check())
	}
}

func TestOnlyLlamaServersStreamsGetAConnectionEach(t *testing.T) {
	for _, test := range []struct {
		api          string
		stream, want bool
	}{{apiOpenAI, true, true}, {apiOpenAI, false, false}, {apiOllama, true, false}} {
		var once, all atomic.Int64
		url := listen(t, &fake{api: test.api, answer: func(s *speaker) {
			all.Add(1)
			if s.r.Close {
				once.Add(1)
			}
			speaks(s)
		}})
		o := small(url)
		o.Stream = test.stream
		if m := one(t, o); m.Completed != o.Requests {
			t.Errorf("%+v: %d requests are completed: %v", test, m.Completed, m.Failures)
		}
		if got := once.Load() == all.Load(); got != test.want || !got && once.Load() > 0 {
			t.Errorf("%+v: %d of %d requests ask for the end of their connection", test, once.Load(), all.Load())
		}
	}
}
