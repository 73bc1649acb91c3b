package main

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cllm/cmd/cllm/bench"
)

func testOptions() options {
	return options{
		names: serverNames, concurrency: []int{1, 32}, queued: []int{128}, ollamaConcurrency: []int{32},
		requests: 72, ollamaRequests: 16, parallelRequests: 64, tokens: 50, promptTokens: 42, repeat: 2,
	}
}

func TestTurnsAreInterleavedAndTurnRoundWithEachRepeat(t *testing.T) {
	servers := choose(testOptions(), t.TempDir())
	var got [2][]string
	for repeat := range got {
		for _, turn := range plan(servers, repeat, 7) {
			name := fmt.Sprintf("engine %d", turn.load.clients)
			if turn.server != nil {
				name = fmt.Sprintf("%s %d/%d", turn.server.name, turn.load.clients, turn.load.requests)
			}
			got[repeat] = append(got[repeat], name)
		}
	}
	want := [2][]string{
		{
			"engine 1", "cllm 1/16", "engine 1", "llama-server 1/16",
			"engine 32", "cllm 32/72", "engine 32", "llama-server 32/72", "ollama 32/16", "ollama-parallel 32/64",
			"engine 128", "cllm 128/128", "engine 128",
		},
		{
			"engine 128", "cllm 128/128", "engine 128",
			"ollama-parallel 32/64", "ollama 32/16", "llama-server 32/72", "engine 32", "cllm 32/72", "engine 32",
			"llama-server 1/16", "engine 1", "cllm 1/16", "engine 1",
		},
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
	if len(seeds) != 3*3 {
		t.Errorf("there are prompts of %d loads, want 9", len(seeds))
	}
}

func TestTheTableSaysWhatEachServerReachesOfTheCeilingAndOfLlamaServer(t *testing.T) {
	o := testOptions()
	o.concurrency, o.queued, o.repeat = []int{32}, nil, 1
	sum := func(server string, completed int, rate float64) *bench.Report {
		m := bench.Measurement{Server: server, Completed: completed, InputTokens: 50 * completed, OutputThroughput: rate}
		m.Concurrency = 32
		m.TTFT = bench.Distribution{Count: 1, P50: 500, P95: 1500}
		m.E2EL = bench.Distribution{Count: 1, P95: 20000}
		return bench.Join([]*bench.Report{{Measurements: []bench.Measurement{m}}})
	}
	servers := choose(o, t.TempDir())
	var all []measured
	for repeat, rates := range [][]float64{{40, 20, 5}, {30, 20, 5}, {60, 22, 4}} {
		for i, server := range servers[:3] {
			all = append(all, measured{repeat + 1, server, server.loads[0], sum(server.name, server.loads[0].requests, rates[i])})
		}
	}
	// 72 requests of 50 prompt tokens at 100/s take 36 s. So do the answers: 64 in two waves
	// at 100/s, and the last 8 at 100/s.
	rate := func(repeat, clients int, all float64) engineRates {
		return engineRates{Repeat: repeat, Clients: clients, Prefill: all, Decode: map[int]float64{32: all, 8: all, 16: all}}
	}
	// The first repeat has two turns of the engine, which take half and one and a half of that.
	rates := []engineRates{rate(1, 32, 200), rate(1, 32, 200./3), rate(3, 32, 160), rate(2, 32, 80), rate(1, 8, 1000)}
	var out bytes.Buffer
	if err := newResult(o, servers, rates, all).table(o, &out); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	for _, want := range []string{
		"ceiling 32 - 50.0 40.0–80.0 - - - - -",
		"cllm 32 216/216 40.0 30.0–60.0 75% 2.00 0.50 1.50 20.00",
		"llama-server 32 216/216 20.0 20.0–22.0 40% 1.00 0.50 1.50 20.00",
		"ollama 32 48/48 5.0 4.0–5.0 10% 0.25 0.50 1.50 20.00",
		"ollama, 32 clients: 16 requests instead of 72, because it is slow",
	} {
		if !strings.Contains(strings.Join(got, "\n")+"\n", want+"\n") {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}

func TestTheCeilingOfALoadIsThatOfItsWaves(t *testing.T) {
	e := engineRates{Prefill: 1000, Decode: map[int]float64{8: 50, 32: 100, 64: 200, 1: 10}}
	for _, c := range []struct {
		load load
		want float64
	}{
		{load{1, 2}, 2 * 50 / (2*0.1 + 2*5)},
		{load{32, 32}, 32 * 50 / (32*0.1 + 16)},
		{load{32, 40}, 40 * 50 / (40*0.1 + 16 + 8)},
		{load{64, 72}, 72 * 50 / (72*0.1 + 16 + 8)},
		{load{256, 136}, 136 * 50 / (136*0.1 + 16 + 16 + 8)},
	} {
		if got := e.ceiling(c.load, 50, 100); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%d requests of %d clients: ceiling %.3f, want %.3f", c.load.requests, c.load.clients, got, c.want)
		}
	}
}

func TestTheEngineDecodesAsManySequencesAsTheServers(t *testing.T) {
	servers := choose(testOptions(), t.TempDir())
	for clients, want := range map[int][]int{1: {1}, 32: {8, 16, 32}, 128: {64}, 8: nil} {
		if diff := cmp.Diff(want, together(servers, clients)); diff != "" {
			t.Errorf("%d clients, sequences decoded together (-want +got):\n%s", clients, diff)
		}
	}
}
