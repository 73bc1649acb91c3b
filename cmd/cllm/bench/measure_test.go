package bench

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// ticks waits 100 ms before the first of the tokens and 20 ms between two, and ends
// 5 ms later. Each second token has no text.
func ticks(s *speaker) {
	time.Sleep(100 * time.Millisecond)
	for i := range s.max {
		if i > 0 {
			time.Sleep(20 * time.Millisecond)
		}
		s.chunk([]string{"a", ""}[i%2])
	}
	time.Sleep(5 * time.Millisecond)
	s.end(s.max, "length")
}

func TestTimesAreExact(t *testing.T) {
	for _, api := range apis {
		synctest.Test(t, func(t *testing.T) {
			f := &fake{api: api, answer: ticks}
			net, stop := newNetwork(map[string]*fake{"a": f})
			defer stop()
			o := small("http://a")
			o.dial, o.MaxTokens, o.Goodput = net.dial, 5, Limits{TTFT: 100, TPOT: 21.25, E2EL: 185}
			m := one(t, o)
			same := func(n int, ms float64) Distribution { return Distribution{n, ms, ms, ms, ms, ms} }
			want := Measurement{
				Server: "a", load: load{Concurrency: 2}, Repeat: 1, Start: m.Start,
				Duration: 0.555, Completed: 6, InputTokens: 6 * 30, OutputTokens: 6 * 5,
				RequestThroughput: 6 / 0.555, OutputThroughput: 30 / 0.555, TotalTokenThroughput: 210 / 0.555, RequestGoodput: 6 / 0.555,
				TTFT: same(6, 100), TPOT: same(6, 21.25), ITL: same(12, 40), E2EL: same(6, 185),
			}
			if api == apiOllama {
				want.Queue = same(6, 7)
			}
			if diff := cmp.Diff(want, m, cmp.AllowUnexported(Measurement{}), cmpopts.EquateApprox(1e-12, 0)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", api, diff)
			}
			if f.most != 2 {
				t.Errorf("%d requests at a time, want 2", f.most)
			}
			o.Goodput.TPOT = 21.24
			if m := one(t, o); m.RequestGoodput != 0 {
				t.Errorf("goodput is %v though each reply is over a limit", m.RequestGoodput)
			}
		})
	}
}

// A model that ends at once has said nothing within any time.
func TestAReplyWithoutTextIsNotGoodWhereItsFirstTextIsLimited(t *testing.T) {
	for _, api := range apis {
		synctest.Test(t, func(t *testing.T) {
			net, stop := newNetwork(map[string]*fake{"a": {api: api, answer: func(s *speaker) {
				time.Sleep(time.Second)
				s.end(0, "stop")
			}}})
			defer stop()
			o := small("http://a")
			o.dial, o.Goodput = net.dial, Limits{TTFT: 5000}
			if m := one(t, o); m.Completed != 6 || m.RequestGoodput != 0 {
				t.Errorf("%s: %d completed, %v good ones a second, want 6 and none", api, m.Completed, m.RequestGoodput)
			}
			o.Goodput = Limits{E2EL: 5000}
			if m := one(t, o); m.RequestGoodput != 2 {
				t.Errorf("%s: %v good ones a second, want 2", api, m.RequestGoodput)
			}
		})
	}
}

// Another server's turn may have been long, and the model unloaded meanwhile.
func TestAShortRequestThatDoesNotCountComesBeforeEachLoad(t *testing.T) {
	f := &fake{api: apiOllama, answer: speaks}
	o := small(listen(t, f))
	o.Concurrency, o.Repeat, o.Warmup = []int{1, 2}, 3, 1
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if f.short != 2+2*3 || len(f.asked) != 1+2*3*6 {
		t.Errorf("%d short requests and %d others, want 2 and one for each of 6 measurements, and 37", f.short, len(f.asked))
	}
	o.Warmup, f.short = 0, 0
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if f.short != 2 {
		t.Errorf("%d short requests without warm-up, want 2", f.short)
	}
}

func TestAWholeReplyHasOnlyItsLatency(t *testing.T) {
	for _, api := range apis {
		synctest.Test(t, func(t *testing.T) {
			net, stop := newNetwork(map[string]*fake{"a": {api: api, answer: ticks}})
			defer stop()
			o := small("http://a")
			o.dial, o.Stream = net.dial, false
			m := one(t, o)
			if m.Completed != 6 || m.OutputTokens != 24 || m.E2EL.P50 != 165 || m.TTFT.Count != 0 || m.TPOT.Count != 0 || m.ITL.Count != 0 {
				t.Errorf("%s: %+v", api, m)
			}
		})
	}
}

func TestAnOpenLoadComesAtItsRateAndWaitsForNoReply(t *testing.T) {
	arrivals := func(seed uint64) (at []time.Duration, most int) {
		synctest.Test(t, func(t *testing.T) {
			f := &fake{api: apiOllama, answer: func(s *speaker) { time.Sleep(time.Hour); speaks(s) }}
			net, stop := newNetwork(map[string]*fake{"a": f})
			defer stop()
			o := small("http://a")
			o.dial, o.Concurrency, o.Rate, o.Requests, o.Timeout, o.Seed = net.dial, nil, []float64{4}, 200, 2*time.Hour, seed
			m := one(t, o)
			if m.Completed != 200 {
				t.Errorf("%d of 200 completed", m.Completed)
			}
			for _, a := range f.asked {
				at = append(at, a.at.Sub(m.Start))
			}
			most = f.most
		})
		slices.Sort(at)
		return at, most
	}
	first, most := arrivals(7)
	if most != 200 {
		t.Errorf("%d requests at a time, want all 200", most)
	}
	// 199 exponential gaps of 250 ms have a mean within 3 standard errors.
	if mean := first[199] / 199; mean < 197*time.Millisecond || mean > 303*time.Millisecond {
		t.Errorf("the mean gap is %v, want about 250ms", mean)
	}
	// In a Poisson process, 1/e of the gaps are longer than the mean.
	long := 0
	for i := range 199 {
		if first[i+1]-first[i] > 250*time.Millisecond {
			long++
		}
	}
	if long < 53 || long > 94 {
		t.Errorf("%d of 199 gaps are longer than the mean, want about 73", long)
	}
	if again, _ := arrivals(7); !slices.Equal(again, first) {
		t.Error("the same seed gives other arrivals")
	}
	if other, _ := arrivals(8); slices.Equal(other, first) {
		t.Error("another seed gives the same arrivals")
	}
}

// What is sent late has waited, too: a bench that is short of CPU hides nothing.
func TestTimesCountFromWhenARequestWasDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, stop := newNetwork(map[string]*fake{"a": {api: apiOllama, answer: ticks}})
		defer stop()
		o := small("http://a")
		o.dial, o.Progress = net.dial, new(Progress)
		target, err := prepare(t.Context(), o.Servers[0], nil, o)
		if err != nil {
			t.Fatal(err)
		}
		client, done := newClient(o, 1)
		defer done()
		w := &work{client: client, target: target, prompt: newPrompter(target, o), o: o, tally: &tally{o: o, gaps: gaps{limit: gapLimit}}}
		w.one(t.Context(), 0, time.Now().Add(-time.Second))
		if m := w.tally.result(time.Second); m.TTFT.P50 != 1100 || m.E2EL.P50 != 1165 {
			t.Errorf("TTFT %v and E2EL %v ms of a request that was sent a second late, want 1100 and 1165", m.TTFT.P50, m.E2EL.P50)
		}
	})
}

func TestPromptsHaveTheirLengthAndNoBeginningInCommon(t *testing.T) {
	f := &fake{api: apiOpenAI, answer: speaks}
	o := small(listen(t, f))
	o.Requests, o.Repeat, o.PromptTokens, o.Warmup = 50, 2, 210, 3
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, a := range f.asked {
		all := strings.Fields(a.prompt)
		if len(all) != 100 || !a.ignoreEOS {
			t.Fatalf("a prompt has %d words, ignore_eos %v; want 100 and true", len(all), a.ignoreEOS)
		}
		seen[strings.Join(all[:4], " ")] = true
	}
	if len(f.asked) != 103 || len(seen) != 103 {
		t.Errorf("%d requests with %d beginnings, want 103 of each", len(f.asked), len(seen))
	}
}

func TestASharedPrefixIsPartOfThePrompt(t *testing.T) {
	f := &fake{api: apiOllama, answer: speaks}
	o := small(listen(t, f))
	o.PromptTokens, o.SharedPrefix = 110, 60
	if m := one(t, o); m.InputTokens != 6*110 {
		t.Errorf("the prompts have %d tokens, want 660", m.InputTokens)
	}
	ends := map[string]bool{}
	first := strings.Fields(f.asked[0].prompt)
	for _, a := range f.asked {
		all := strings.Fields(a.prompt)
		if len(all) != 50 || !slices.Equal(all[:30], first[:30]) {
			t.Errorf("%q does not begin with the 30 words of %q", a.prompt, f.asked[0].prompt)
		}
		ends[fmt.Sprint(all[30:34])] = true
	}
	if len(ends) != 6 {
		t.Errorf("6 prompts go on in %d ways", len(ends))
	}
}

func TestPromptsDifferHoweverLittleRoomThereIs(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"the shared beginning takes all": func(o *Options) { o.PromptTokens, o.SharedPrefix = 60, 60 },
		"the template takes all":         func(o *Options) { o.PromptTokens = 5 },
	} {
		f := &fake{api: apiOllama, answer: speaks}
		o := small(listen(t, f))
		o.Requests = 200
		change(&o)
		one(t, o)
		seen := map[string]bool{}
		for _, a := range f.asked {
			seen[a.prompt] = true
		}
		if len(seen) != 200 {
			t.Errorf("%s: %d of 200 prompts differ", name, len(seen))
		}
	}
}

func TestServersGetTheSamePromptsAndOneServerNeverTheSameTwice(t *testing.T) {
	a, b := &fake{api: apiOllama, answer: speaks}, &fake{api: apiOpenAI, answer: speaks}
	o := small(listen(t, a))
	o.Servers = append(o.Servers, Server{Name: "again", URL: o.Servers[0].URL}, Server{Name: "b", URL: listen(t, b)})
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	prompts := func(f *fake) map[string]bool {
		all := map[string]bool{}
		for _, a := range f.asked {
			all[a.prompt] = true
		}
		return all
	}
	twice, once := prompts(a), prompts(b)
	if len(twice) != 12 || len(once) != 6 {
		t.Errorf("%d and %d prompts, want 12 and 6", len(twice), len(once))
	}
	for p := range once {
		if !twice[p] {
			t.Errorf("only one server got %q", p)
		}
	}
}
