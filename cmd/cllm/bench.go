package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/mattn/go-runewidth"
	"github.com/ollama/ollama/envconfig"
	"github.com/spf13/cobra"

	"cllm/cmd/cllm/bench"
)

// benchFlags is the command line of bench where its options have another form.
type benchFlags struct {
	servers    []string
	goodput    string
	json, plot string
}

func benchCommand(c *console) *cobra.Command {
	var o bench.Options
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure how fast servers answer many requests at a time",
		Long: `Measure how fast servers answer many requests at a time.

Each server is asked for the same work: at each concurrency so many clients, which
send their next request when the last is answered, or with --rate requests that
arrive at random. Servers take turns. Ollama's API (/api/generate) and llama-server's
(/v1/completions) are told apart by asking; ollama+http:// or openai+http:// decides.

TTFT is the time to the first text, E2EL to the end of the reply, TPOT is
(E2EL − TTFT) / (output tokens − 1) and ITL the gap between two chunks. Queue is what
a reply took besides loading, prompt and tokens: total_duration − load_duration −
prompt_eval_duration − eval_duration, so Ollama's API only. Tokens are those that the
server counts. A request is sent once; if one fails, the command fails.`,
		Example: `  cllm bench --requests 72 --max-tokens 50 --concurrency 8,16,24,32 \
      --server cllm=http://127.0.0.1:11434 --server ollama=http://127.0.0.1:11435`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("rate") && !cmd.Flags().Changed("concurrency") {
				o.Concurrency = nil
			}
			if err := f.apply(&o); err != nil {
				return err
			}
			return measure(cmd.Context(), c, o, f)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringArrayVar(&f.servers, "server", nil, "Server to measure as `NAME=URL`, may be repeated (default cllm at OLLAMA_HOST)")
	flags.StringVar(&o.Model, "model", "", "Model to ask (default the first that a server lists)")
	flags.IntSliceVar(&o.Concurrency, "concurrency", []int{1, 8, 16, 32}, "Closed loop: clients at a time, a list")
	flags.Float64SliceVar(&o.Rate, "rate", nil, "Open loop: requests per second, a list")
	flags.IntVar(&o.Requests, "requests", 72, "Requests at each load")
	flags.IntVar(&o.MaxTokens, "max-tokens", 50, "Most tokens of a reply")
	flags.IntVar(&o.PromptTokens, "prompt-tokens", 64, "Tokens of a prompt with its template, about")
	flags.IntVar(&o.SharedPrefix, "shared-prefix", 0, "Tokens that all prompts begin with, about")
	flags.Float64Var(&o.Temperature, "temperature", 0, "Temperature")
	flags.BoolVar(&o.Stream, "stream", true, "Stream replies; without, there is no TTFT, TPOT and ITL")
	flags.IntVar(&o.Warmup, "warmup", 2, "Requests to each server before the first load, not counted; with any, one short request before each load, too")
	flags.IntVar(&o.Repeat, "repeat", 1, "Times that all loads are measured")
	flags.DurationVar(&o.Timeout, "timeout", 10*time.Minute, "Most time of a request")
	flags.Uint64Var(&o.Seed, "seed", 0, "Seed of prompts and arrivals (default another each run, so that no server has the prompts in its cache)")
	flags.StringVar(&f.goodput, "goodput", "", "Limits in ms that a good reply keeps, as ttft:1000,tpot:100,e2el:20000")
	flags.StringVar(&f.json, "json", "", "Write everything to this `file`")
	flags.StringVar(&f.plot, "plot", "", "Draw throughput and latency to `file`.png and file.svg")
	return cmd
}

// apply reads what has another form on the command line.
func (f benchFlags) apply(o *bench.Options) (err error) {
	if o.Goodput, err = bench.ParseLimits(f.goodput); err != nil {
		return err
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64N(1<<31-1) + 1
	}
	for _, text := range f.servers {
		s, err := bench.ParseServer(text)
		if err != nil {
			return err
		}
		o.Servers = append(o.Servers, s)
	}
	if len(o.Servers) == 0 {
		o.Servers = []bench.Server{{Name: "cllm", URL: envconfig.Host().String()}}
	}
	return nil
}

// writable tells before a long run whether a file can be written where it should be after it.
func writable(name string) error {
	if name == "" {
		return nil
	}
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		return fmt.Errorf("%s is a folder; give the name of a file", name)
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".cllm-bench-*")
	if err != nil {
		if p := new(fs.PathError); errors.As(err, &p) {
			err = p.Err // its path is the temporary file's
		}
		return fmt.Errorf("%s could not be written after the run: %w", name, err)
	}
	f.Close()
	return os.Remove(f.Name())
}

// measure runs the bench and writes what it has found, also after Ctrl-C.
func measure(ctx context.Context, c *console, o bench.Options, f benchFlags) error {
	if err := errors.Join(writable(f.json), writable(f.plot)); err != nil {
		return err
	}
	o.Progress = new(bench.Progress)
	hide := showProgress(c.err, o.Progress)
	report, err := bench.Run(ctx, o)
	hide()
	if report == nil {
		return err
	}
	err = errors.Join(err, report.WriteTable(c.out))
	if f.json != "" {
		err = errors.Join(err, report.WriteJSON(f.json))
	}
	if f.plot != "" && len(report.Summary) > 0 { // after Ctrl-C there may be nothing to plot
		err = errors.Join(err, report.WritePlot(f.plot))
	}
	if failed, of := report.Failed(); err == nil && failed > 0 {
		return fmt.Errorf("%d of %d requests failed; the reasons are below the tables", failed, of)
	}
	return err
}

// showProgress redraws one line until hide is called, if w is a terminal.
func showProgress(w io.Writer, p fmt.Stringer) (hide func()) {
	if !isTerminal(w) {
		return func() {}
	}
	quit := make(chan struct{})
	var drawing sync.WaitGroup
	drawing.Go(func() {
		redraw(quit, func() {
			width := columns(w)
			if width == 0 {
				width = plainColumns
			}
			io.WriteString(w, lineStart+runewidth.Truncate(p.String(), width-1, "…")+clearToEnd)
		})
		io.WriteString(w, lineStart+clearToEnd)
	})
	return func() {
		close(quit)
		drawing.Wait()
	}
}
