package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cllm/cmd/cllm/bench"
)

func testOptions() options {
	return options{
		names: serverNames, concurrency: []int{1, 32}, ollamaConcurrency: []int{32},
		requests: 72, ollamaRequests: 16, parallelRequests: 64, tokens: 50, promptTokens: 42, repeat: 2,
	}
}

func TestTurnsAreInterleavedAndTurnRoundWithEachRepeat(t *testing.T) {
	servers := choose(testOptions(), t.TempDir())
	var got [2][]string
	for repeat := range got {
		for _, turn := range plan(servers, repeat, 7) {
			name := "engine"
			if turn.server != nil {
				name = fmt.Sprintf("%s %d/%d", turn.server.name, turn.load.clients, turn.load.requests)
			}
			got[repeat] = append(got[repeat], name)
		}
	}
	want := [2][]string{
		{"engine", "cllm 1/16", "llama-server 1/16", "cllm 32/72", "llama-server 32/72", "ollama 32/16", "ollama-parallel 32/64"},
		{"ollama-parallel 32/64", "ollama 32/16", "llama-server 32/72", "cllm 32/72", "llama-server 1/16", "cllm 1/16", "engine"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("turns (-want +got):\n%s", diff)
	}
}

func TestServersGetTheSamePromptsAndNoPromptComesAgain(t *testing.T) {
	servers := choose(testOptions(), t.TempDir())
	seeds := map[uint64]string{}
	for repeat := range 3 {
		for _, turn := range plan(servers, repeat, 7) {
			if turn.server == nil {
				continue
			}
			at := fmt.Sprintf("%d clients, repeat %d", turn.load.clients, repeat)
			if other := seeds[turn.seed]; other != "" && other != at {
				t.Errorf("%s has the prompts of %s", at, other)
			}
			seeds[turn.seed] = at
		}
	}
	if len(seeds) != 2*3 {
		t.Errorf("there are prompts of %d loads, want 6", len(seeds))
	}
}

func TestTheTableSaysWhatEachServerReachesOfTheCeilingAndOfLlamaServer(t *testing.T) {
	o := testOptions()
	o.concurrency, o.repeat = []int{32}, 1
	sum := func(server string, completed int, rate float64) bench.Summary {
		s := bench.Summary{Server: server, Repeats: 1, Completed: completed, PromptTokens: bench.Spread{Median: 50}}
		s.Concurrency = 32
		s.OutputThroughput = bench.Spread{Median: rate, Min: rate - 1, Max: rate + 1}
		s.TTFT.P50.Median, s.TTFT.P95.Median, s.E2EL.P95.Median = 500, 1500, 20000
		return s
	}
	report := &bench.Report{Summary: []bench.Summary{
		sum("ollama", 16, 5), sum("llama-server", 72, 20), sum("cllm", 70, 40),
	}}
	// 50 prompt tokens at 100/s and 50 tokens at 100/s are 50 tokens a second.
	rates := []engineRates{
		{Prefill: 100, Decode: map[int]float64{32: 90}}, {Prefill: 10, Decode: map[int]float64{32: 100}}, {Prefill: 200, Decode: map[int]float64{32: 110}},
	}
	var out bytes.Buffer
	if err := newResult(o, choose(o, t.TempDir()), rates, report).table(o, &out); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	for _, want := range []string{
		"cllm 32 70/72 40.0 39.0–41.0 80% 2.00 0.50 1.50 20.00",
		"llama-server 32 72/72 20.0 19.0–21.0 40% 1.00 0.50 1.50 20.00",
		"ollama 32 16/16 5.0 4.0–6.0 10% 0.25 0.50 1.50 20.00",
		"ollama, 32 clients: 16 requests instead of 72, because it is slow",
	} {
		if !strings.Contains(strings.Join(got, "\n")+"\n", want+"\n") {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}
