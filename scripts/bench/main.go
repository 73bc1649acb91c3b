// Bench measures the daemon over HTTP against what the engine alone reaches on
// the same work, on this machine, in one run.
//
// The work is that of the benchmark that cllm started with: 72 requests of 50
// tokens, with about 45 prompt tokens each. The ceiling of a concurrency is that
// work at the engine's prefill rate and at its decode rate for so many sequences,
// without scheduler, sampling and HTTP. Other servers that speak Ollama's API can
// be measured beside: -server ollama=http://127.0.0.1:11434.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"text/tabwriter"

	"cllm/llm/llama"
)

type options struct {
	model       string
	binary      string
	concurrency []int
	requests    int
	tokens      int
	words       int
	repeat      int
	servers     []server
}

type server struct {
	name, url string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse() (options, error) {
	var o options
	concurrency := flag.String("concurrency", "8,16,24,32,64", "clients at once, a list")
	flag.StringVar(&o.model, "model", "", "the model's GGUF file")
	flag.StringVar(&o.binary, "cllm", "bin/cllm", "the daemon's binary")
	flag.IntVar(&o.requests, "requests", 72, "requests at each concurrency")
	flag.IntVar(&o.tokens, "tokens", 50, "tokens of each answer")
	flag.IntVar(&o.words, "words", 34, "words of each prompt; the chat template adds some tokens")
	flag.IntVar(&o.repeat, "repeat", 1, "runs of each concurrency, interleaved; the median counts")
	flag.Func("server", "NAME=URL of another server to measure, its model is named bench too; may be given more than once", func(s string) error {
		name, url, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("%q is not NAME=URL", s)
		}
		o.servers = append(o.servers, server{name, url})
		return nil
	})
	flag.Parse()
	if o.model == "" {
		return o, fmt.Errorf("-model FILE is missing; make one with go run ./scripts/synthmodel -o FILE")
	}
	for _, s := range strings.Split(*concurrency, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 256 {
			return o, fmt.Errorf("the concurrency %q is not a number from 1 to 256", s)
		}
		o.concurrency = append(o.concurrency, n)
	}
	return o, nil
}

func run(ctx context.Context) error {
	o, err := parse()
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "measuring the engine alone ...")
	ceiling, err := measureEngine(ctx, o)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "starting the daemon ...")
	d, err := startDaemon(ctx, o)
	if err != nil {
		return err
	}
	defer d.stop()
	servers := append([]server{{"cllm", d.url}}, o.servers...)

	results := make(map[string][]result) // by server and concurrency
	for round := range o.repeat {
		for _, c := range o.concurrency {
			for _, s := range servers {
				fmt.Fprintf(os.Stderr, "round %d: %s, %d clients ...\n", round+1, s.name, c)
				r, err := measure(ctx, s, o, c, round)
				if err != nil {
					return err
				}
				key := s.name + strconv.Itoa(c)
				results[key] = append(results[key], r)
			}
		}
	}
	report(o, servers, ceiling, results, d)
	return ctx.Err()
}

func report(o options, servers []server, e engineRates, results map[string][]result, d *daemonProcess) {
	fmt.Printf("\n%s\n", strings.TrimSpace(llama.SystemInfo()))
	fmt.Printf("engine alone: prefill %.0f tokens/s; a context of 64 sequences was ready in %v\n", e.prefill, e.ready)
	fmt.Printf("daemon idle with 64 slots: %d MiB resident, the model file has %d MiB\n\n", d.idle>>20, d.file>>20)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "server\tclients\tok\ttokens/s\tof ceiling\tengine decode\tTTFT p50\tp95\tlatency p50\tp95\tprompt\t")
	for _, s := range servers {
		for _, c := range o.concurrency {
			r := median(results[s.name+strconv.Itoa(c)])
			top := e.ceiling(o, c, r.promptTokens)
			fmt.Fprintf(w, "%s\t%d\t%d/%d\t%.1f\t%.0f%%\t%.1f\t%.2fs\t%.2fs\t%.2fs\t%.2fs\t%.0f\t\n",
				s.name, c, r.ok, o.requests, r.rate, 100*r.rate/top, e.decode[c],
				r.ttft(50).Seconds(), r.ttft(95).Seconds(), r.latency(50).Seconds(), r.latency(95).Seconds(), r.promptTokens)
		}
	}
	w.Flush()
}
