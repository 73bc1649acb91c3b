// Bench measures cllm beside llama-server and Ollama, and all of them against what
// the engine alone reaches on the same work, on this machine, in one run.
//
// Each server is started for its turn with the same model file, measured by package
// cmd/cllm/bench, and stopped again: none takes CPU or memory from another. Turns are
// interleaved, and their order turns round with each repeat, so that what else happens
// on the machine happens to all.
//
// The ceiling of a load is its work at the engine's prefill rate and at its decode
// rates for as many sequences as are left, without scheduler, sampling and HTTP. It is
// measured before and after the first server with that load.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cllm/cmd/cllm/bench"
)

// slots is how many requests cllm and llama-server work on at a time.
const slots = 64

// mostClients are fewer than cllm lets wait.
const mostClients = 512

type options struct {
	model             string
	cllm              string // files of the servers
	llamaServer       string
	ollama            string
	names             []string // of the servers to measure
	concurrency       []int
	queued            []int // more clients than slots, for cllm
	ollamaConcurrency []int
	requests          int
	ollamaRequests    int // with Ollama's default settings
	parallelRequests  int // with as many slots as clients
	tokens            int
	promptTokens      int
	repeat            int
	out               string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	o, err := parse()
	if err == nil {
		err = run(ctx, o)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse() (options, error) {
	var o options
	flag.StringVar(&o.model, "model", "", "the model's GGUF file (default the synthetic one)")
	flag.StringVar(&o.cllm, "cllm", "bin/cllm", "the file of cllm")
	flag.StringVar(&o.llamaServer, "llama-server", "", "the file of llama-server (default what scripts/peers.sh builds)")
	flag.StringVar(&o.ollama, "ollama", "", "the file of the ollama command (default what scripts/peers.sh builds)")
	names := flag.String("servers", strings.Join(serverNames, ","), "servers to measure, a list")
	concurrency := flag.String("concurrency", "1,8,16,24,32,48,64", "clients of cllm and llama-server, a list")
	queued := flag.String("queued", "128,256", "more clients than cllm has slots, a list; they send as many requests at least")
	ollamaConcurrency := flag.String("ollama-concurrency", "32", "clients of Ollama, a list")
	flag.IntVar(&o.requests, "requests", 72, "requests at each concurrency; one client sends 16 at most")
	flag.IntVar(&o.ollamaRequests, "ollama-requests", 16, "most requests to Ollama with default settings")
	flag.IntVar(&o.parallelRequests, "parallel-requests", 64, "most requests to Ollama with OLLAMA_NUM_PARALLEL")
	flag.IntVar(&o.tokens, "tokens", 50, "tokens of each answer")
	flag.IntVar(&o.promptTokens, "prompt-tokens", 42, "tokens of each prompt with its template")
	flag.IntVar(&o.repeat, "repeat", 1, "times that all is measured; medians count")
	flag.StringVar(&o.out, "out", "tmp/bench/performance", "where to write `FILE`.json, FILE.svg and FILE.png")
	flag.Parse()
	o.names = strings.Split(*names, ",")
	for _, name := range o.names {
		if !slices.Contains(serverNames, name) {
			return o, fmt.Errorf("there is no server %q; there are %s", name, strings.Join(serverNames, ", "))
		}
	}
	var err error
	if o.concurrency, err = clientCounts(*concurrency, 1, slots); err != nil {
		return o, err
	}
	if *queued != "" {
		if o.queued, err = clientCounts(*queued, slots+1, mostClients); err != nil {
			return o, err
		}
	}
	if o.ollamaConcurrency, err = clientCounts(*ollamaConcurrency, 1, slots); err != nil {
		return o, err
	}
	if flag.NArg() > 0 {
		return o, fmt.Errorf("%q is not a flag", flag.Arg(0))
	}
	if least := min(o.requests, o.ollamaRequests, o.parallelRequests, o.tokens, o.promptTokens, o.repeat); least < 1 {
		return o, fmt.Errorf("a count is %d; each is at least 1", least)
	}
	return o, nil
}

// clientCounts reads a list like 1,8,32.
func clientCounts(list string, least, most int) ([]int, error) {
	var counts []int
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < least || n > most {
			return nil, fmt.Errorf("the concurrency %q is not a number from %d to %d", text, least, most)
		}
		counts = append(counts, n)
	}
	slices.Sort(counts)
	return slices.Compact(counts), nil
}

// make has the files that are not given made, those that are measured.
func (o *options) make(ctx context.Context) error {
	for _, f := range []struct {
		file   *string
		needed bool
		script []string
	}{
		{&o.model, true, []string{"scripts/synthmodel.sh"}},
		{&o.llamaServer, slices.Contains(o.names, "llama-server"), []string{"scripts/peers.sh", "llama-server"}},
		{&o.ollama, slices.Contains(o.names, "ollama") || slices.Contains(o.names, "ollama-parallel"), []string{"scripts/peers.sh", "ollama"}},
	} {
		if *f.file != "" || !f.needed {
			continue
		}
		cmd := exec.CommandContext(ctx, f.script[0], f.script[1:]...)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("%s: %w (see above)", strings.Join(f.script, " "), err)
		}
		*f.file = strings.TrimSpace(string(out))
	}
	return nil
}

// turn is one measurement: of a server at a load, or of the engine beside the servers with
// as many clients if server is nil.
type turn struct {
	server *server
	load   load
	seed   uint64
}

// measured is what a turn of a server has found.
type measured struct {
	repeat int
	server *server
	load   load
	report *bench.Report
}

// plan has, at each concurrency, one server after the other and the engine before and after
// the first of them, as the machine's speed changes meanwhile; each second repeat goes the
// other way round. All servers get the same prompts at a load, other ones in each repeat.
func plan(servers []*server, repeat int, seed uint64) []turn {
	var turns []turn
	for clients := 1; clients <= mostClients; clients++ {
		var some []turn
		for _, s := range servers {
			for _, l := range s.loads {
				if l.clients == clients {
					some = append(some, turn{s, l, seed + uint64(repeat*(mostClients+1)+clients)})
				}
			}
		}
		if len(some) > 0 {
			engine := turn{load: load{clients: clients}}
			turns = append(turns, engine, some[0], engine)
			turns = append(turns, some[1:]...)
		}
	}
	if repeat%2 == 1 {
		slices.Reverse(turns)
	}
	return turns
}

// run measures and reports what it could measure, also after Ctrl-C or if a server
// does not start.
func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "cllm-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := o.make(ctx); err != nil {
		return err
	}
	m, err := readModel(o.model)
	if err != nil {
		return err
	}
	servers := choose(o, dir)
	var rates []engineRates
	var all []measured
	var failed []error
	seed := rand.Uint64N(1<<31) + 1
	for repeat := range o.repeat {
		for _, t := range plan(servers, repeat, seed) {
			if ctx.Err() != nil {
				break
			}
			if t.server == nil {
				fmt.Fprintf(os.Stderr, "%d/%d: the engine alone, for %d clients\n", repeat+1, o.repeat, t.load.clients)
				r, err := measureEngine(ctx, o, t.load.clients, together(servers, t.load.clients))
				r.Repeat = repeat + 1
				if err == nil {
					rates = append(rates, r)
				} else if ctx.Err() == nil {
					failed = append(failed, fmt.Errorf("the engine alone, for %d clients: %w", t.load.clients, err))
				}
				continue
			}
			fmt.Fprintf(os.Stderr, "%d/%d: %s, %d clients: ", repeat+1, o.repeat, t.server.name, t.load.clients)
			report, err := take(ctx, t, m, o)
			if report != nil && len(report.Summary) > 0 {
				all = append(all, measured{repeat + 1, t.server, t.load, report})
				fmt.Fprintf(os.Stderr, "%.1f tokens/s\n", report.Summary[0].OutputThroughput.Median)
			}
			if err != nil && ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, err)
				failed = append(failed, fmt.Errorf("%s, %d clients: %w", t.server.name, t.load.clients, err))
			}
		}
	}
	if ctx.Err() != nil {
		failed = append(failed, errors.New("interrupted; what there is of the table holds for what was measured"))
	}
	if len(all) > 0 {
		failed = append(failed, newResult(o, servers, rates, all).write(o))
	}
	return errors.Join(failed...)
}

// take starts the server of a turn, measures it and stops it.
func take(ctx context.Context, t turn, m model, o options) (*bench.Report, error) {
	p, err := t.server.start(ctx, t.load.clients, m)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	t.server.said, t.server.idle = cmp.Or(t.server.said, p.said), cmp.Or(t.server.idle, p.idle)
	report, err := bench.Run(ctx, bench.Options{
		Servers: []bench.Server{{Name: t.server.name, URL: p.url}}, Concurrency: []int{t.load.clients},
		Requests: t.load.requests, Repeat: 1, Timeout: 2 * time.Hour, PromptTokens: o.promptTokens,
		MaxTokens: o.tokens, Stream: true, Seed: t.seed,
	})
	if err == nil {
		if lost, of := report.Failed(); lost > 0 {
			err = fmt.Errorf("%d of %d requests failed, the first with: %s", lost, of, report.Summary[0].Failures[0].First)
		}
	}
	return report, p.explain(err)
}
