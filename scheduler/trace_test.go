package scheduler

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cllm/llm"
	"cllm/llm/llmtest"
)

var update = flag.Bool("update", false, "write the traces anew")

// arrival is a request of a scenario.
type arrival struct {
	at     time.Duration
	prompt string
	tokens int
	leaves time.Duration // after so long; 0: never
}

// Each step of some scenarios is written down: when it began and which rows it had. A
// change of policy shows in the traces, and is looked at before it is taken.
func TestStepsAreAsInTheTraces(t *testing.T) {
	system := strings.Repeat("be helpful and brief. ", 5)
	long := strings.Repeat("a long document. ", 40)
	for name, c := range map[string]struct {
		unified  bool
		arrivals []arrival
	}{
		"one-request":       {arrivals: []arrival{{prompt: "why is the sky blue?", tokens: 4}}},
		"eight-at-once":     {arrivals: each(8, func(i int) arrival { return arrival{prompt: fmt.Sprintf("question number %d", i), tokens: 3 + i%3} })},
		"shared-beginning":  {arrivals: each(4, func(i int) arrival { return arrival{prompt: fmt.Sprint(system, "user ", i), tokens: 3} })},
		"long-prompt":       {arrivals: append(each(3, func(i int) arrival { return arrival{prompt: fmt.Sprint("short ", i), tokens: 12} }), arrival{at: 301 * time.Millisecond, prompt: long, tokens: 2})},
		"long-prompt-mixed": {unified: true, arrivals: append(each(3, func(i int) arrival { return arrival{prompt: fmt.Sprint("short ", i), tokens: 12} }), arrival{at: 301 * time.Millisecond, prompt: long, tokens: 2})},
		"a-hole-is-closed": {arrivals: each(6, func(i int) arrival {
			return arrival{prompt: fmt.Sprint("chat ", i), tokens: []int{9, 2, 9, 9, 9, 9}[i]}
		})},
		"a-client-leaves":    {arrivals: []arrival{{prompt: "goes", tokens: 50, leaves: 201 * time.Millisecond}, {prompt: "stays", tokens: 12}}},
		"the-next-turn":      {arrivals: []arrival{{prompt: system + "one", tokens: 3}, {at: time.Second, prompt: system + "one" + llmtest.TextBy(llmtest.Next, system+"one", 3) + "two", tokens: 3}}},
		"a-repeated-phrase":  {arrivals: []arrival{{prompt: strings.Repeat("over and over and over it ", 3), tokens: 40}}},
		"more-than-the-room": {arrivals: each(20, func(i int) arrival { return arrival{prompt: fmt.Sprint("queued ", i), tokens: 3} })},
	} {
		t.Run(name, func(t *testing.T) {
			var got string
			synctest.Test(t, func(t *testing.T) { got = trace(t, c.unified, name == "a-repeated-phrase", c.arrivals) })
			path := filepath.Join("testdata", "traces", name+".txt")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("the steps are not those of %s; look whether they are better, then write them with -update:\n%s", path, diff)
			}
		})
	}
}

func each(n int, f func(i int) arrival) (list []arrival) {
	for i := range n {
		list = append(list, f(i))
	}
	return list
}

// trace runs a scenario on an engine of 16 sequences whose steps take 20 ms and 2 ms
// more for each row. A line is a step: its time in ms, and sequence:rows, with a star
// where logits are asked for.
func trace(t *testing.T, unified, repeats bool, arrivals []arrival) string {
	var out strings.Builder
	begin := time.Now()
	eo := llmtest.Options{
		Limits: llm.Limits{Sequences: 16, Context: 1024, Batch: 256, Unified: unified},
		BeforeDecode: func(rows []llm.Row) error {
			fmt.Fprintf(&out, "%5d ", time.Since(begin).Milliseconds())
			for i := 0; i < len(rows); {
				n, stars := 0, 0
				seq := rows[i].Seq
				for ; i < len(rows) && rows[i].Seq == seq; i++ {
					n++
					if rows[i].Logits {
						stars++
					}
				}
				fmt.Fprintf(&out, " %d:%d%s", seq, n, strings.Repeat("*", stars))
			}
			out.WriteByte('\n')
			time.Sleep(time.Duration(20+2*len(rows)) * time.Millisecond)
			return nil
		},
	}
	if repeats {
		eo.Next = repeating
	}
	engine := llmtest.NewEngine(eo)
	s, err := New(engine, llmtest.Vocab{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var streams []*Stream
	submit := func(a arrival) {
		ctx, leave := context.WithCancel(t.Context())
		t.Cleanup(leave)
		if a.leaves > 0 {
			time.AfterFunc(a.leaves, leave)
		}
		st, err := s.Submit(ctx, greedy(a.prompt, a.tokens))
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, st)
	}
	for len(arrivals) > 0 && arrivals[0].at == 0 { // all there when the first step begins
		submit(arrivals[0])
		arrivals = arrivals[1:]
	}
	go s.Run()
	defer s.Close()
	for _, a := range arrivals {
		time.Sleep(a.at - time.Since(begin))
		submit(a)
	}
	for _, st := range streams {
		read(st)
	}
	return out.String()
}
