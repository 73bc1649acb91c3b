package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"cllm/cmd/cllm/bench"
	"cllm/llm/llama"
)

// result is all that a run has found. Its JSON is the file beside the plot.
type result struct {
	System string        `json:"system"` // what the engine uses of the CPU
	Rates  []engineRates `json:"engine"`
	Rows   []row         `json:"rows"`
	Notes  []string      `json:"notes"`
	Report *bench.Report `json:"report"`
}

// ceilingName stands in the table where the name of a server stands.
const ceilingName = "ceiling"

// row is a line of the table: one server at one load, medians of the repeats; or the ceiling of
// a load of the first server, which has a rate only.
type row struct {
	Server   string       `json:"server"`
	Clients  int          `json:"clients"`
	OK       int          `json:"ok"`
	Requests int          `json:"requests"`
	Rate     bench.Spread `json:"tokens_per_second"`
	// OfCeiling is the ratio to the ceiling of the same repeat, OfLlamaServer that of the medians; 0 is not known.
	OfCeiling     bench.Spread `json:"of_ceiling"`
	OfLlamaServer float64      `json:"of_llama_server,omitempty"`
	TTFT50        float64      `json:"ttft_p50_s"`
	TTFT95        float64      `json:"ttft_p95_s"`
	E2EL95        float64      `json:"latency_p95_s"`
}

func newResult(o options, servers []*server, rates []engineRates, all []measured) *result {
	var reports []*bench.Report
	for _, m := range all {
		reports = append(reports, m.report)
	}
	r := &result{System: strings.TrimSpace(llama.SystemInfo()), Rates: rates, Report: bench.Join(reports)}
	llamaServer := make(map[int]float64) // tokens/s by clients
	for _, s := range r.Report.Summary {
		if s.Server == "llama-server" {
			llamaServer[s.Concurrency] = s.OutputThroughput.Median
		}
	}
	var most []row // the ceilings of the first server's loads
	for i, server := range servers {
		for _, l := range server.loads {
			for _, s := range r.Report.Summary {
				if s.Server != server.name || s.Concurrency != l.clients {
					continue
				}
				ceiling := ceilings(rates, l, o.tokens, s.PromptTokens.Median)
				if i == 0 && len(ceiling) > 0 {
					most = append(most, row{Server: ceilingName, Clients: l.clients, Rate: bench.SpreadOf(slices.Collect(maps.Values(ceiling)))})
				}
				row := row{
					Server: s.Server, Clients: l.clients, OK: s.Completed, Requests: l.requests * s.Repeats, Rate: s.OutputThroughput,
					TTFT50: s.TTFT.P50.Median / 1000, TTFT95: s.TTFT.P95.Median / 1000, E2EL95: s.E2EL.P95.Median / 1000,
				}
				row.OfCeiling = ofCeiling(all, server, l, ceiling)
				if other := llamaServer[l.clients]; other > 0 {
					row.OfLlamaServer = row.Rate.Median / other
				}
				r.Rows = append(r.Rows, row)
				r.note(o, server, s, l)
			}
		}
		switch {
		case server.said != "":
			r.Notes = append(r.Notes, server.name+": "+server.said)
		case server.idle > 0: // Ollama's engine is a process of its own, which is not counted
			r.Notes = append(r.Notes, fmt.Sprintf("%s, idle with %d slots: %d MiB resident", server.name, slots, server.idle>>20))
		}
	}
	r.Rows = slices.Concat(most, r.Rows)
	return r
}

// ofCeiling is what a server reached of the ceiling of the same repeat: the machine's speed
// changes by more from repeat to repeat than within one.
func ofCeiling(all []measured, server *server, l load, ceiling map[int]float64) bench.Spread {
	var ratios []float64
	for _, m := range all {
		if most := ceiling[m.repeat]; m.server == server && m.load == l && most > 0 {
			ratios = append(ratios, m.report.Summary[0].OutputThroughput.Median/most)
		}
	}
	return bench.SpreadOf(ratios)
}

// note says what a reader must know about a row.
func (r *result) note(o options, server *server, s bench.Summary, l load) {
	add := func(format string, values ...any) {
		r.Notes = append(r.Notes, fmt.Sprintf("%s, %d clients: %s", s.Server, l.clients, fmt.Sprintf(format, values...)))
	}
	if full := loadOf(l.clients, o.requests).requests; l.requests < full {
		add("%d requests instead of %d, because it is slow", l.requests, full)
	}
	if l.requests < l.clients {
		add("no more than %d requests at a time, as there are no more; its times are shorter for it", l.requests)
	}
	if s.EndedEarly > 0 {
		add("the model ended %d answers early", s.EndedEarly)
	}
	for _, f := range s.Failures {
		add("%d failed, %s: %s", f.Count, f.Reason, f.First)
	}
}

func (r *result) table(o options, w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s, %s\n%s\n", r.Report.Date.UTC().Format("2006-01-02 15:04 MST"), r.Report.Machine, r.System)
	var prefill, ready []float64
	for _, e := range r.Rates {
		prefill, ready = append(prefill, e.Prefill), append(ready, e.Ready.Seconds())
	}
	fmt.Fprintf(&b, "engine alone: prefill %.0f tokens/s; a context of %d sequences was ready in %.2f s\n",
		bench.SpreadOf(prefill).Median, slots, bench.SpreadOf(ready).Median)
	fmt.Fprintf(&b, "answers of %d tokens, prompts of about %d; medians of %d repeats; times in s\n\n", o.tokens, o.promptTokens, r.Report.Settings.Repeat)
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "server\tclients\tok\ttokens/s\tmin–max\tof ceiling\t/ llama-server\tTTFT p50\tp95\tlatency p95\t")
	for _, row := range r.Rows {
		if row.Server == ceilingName {
			fmt.Fprintf(t, "%s\t%d\t-\t%.1f\t%.1f–%.1f\t-\t-\t-\t-\t-\t\n", row.Server, row.Clients, row.Rate.Median, row.Rate.Min, row.Rate.Max)
			continue
		}
		ratio, part := "-", "-"
		if row.OfLlamaServer > 0 {
			ratio = fmt.Sprintf("%.2f", row.OfLlamaServer)
		}
		if row.OfCeiling.Median > 0 {
			part = fmt.Sprintf("%.0f%%", 100*row.OfCeiling.Median)
		}
		fmt.Fprintf(t, "%s\t%d\t%d/%d\t%.1f\t%.1f–%.1f\t%s\t%s\t%.2f\t%.2f\t%.2f\t\n", row.Server, row.Clients, row.OK, row.Requests,
			row.Rate.Median, row.Rate.Min, row.Rate.Max, part, ratio, row.TTFT50, row.TTFT95, row.E2EL95)
	}
	t.Flush()
	fmt.Fprintln(&b, strings.Join(append([]string{""}, r.Notes...), "\n"))
	_, err := io.WriteString(w, b.String())
	return err
}

// write shows the table, and writes the JSON and the plot.
func (r *result) write(o options) error {
	if err := r.table(o, os.Stdout); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(o.out), 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("the result as JSON: %w", err)
	}
	return errors.Join(os.WriteFile(o.out+".json", append(text, '\n'), 0o644), r.Report.WritePlot(o.out))
}
