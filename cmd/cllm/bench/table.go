package bench

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
)

// WriteTable writes the report for people. Figures are medians over the repeats.
func (r *Report) WriteTable(w io.Writer) error {
	var b strings.Builder
	r.writeHead(&b)
	if len(r.Summary) > 0 {
		r.writeRates(&b)
		r.writeLatencies(&b, "TTFT", func(s Summary) Spreads { return s.TTFT }, "E2EL", func(s Summary) Spreads { return s.E2EL })
		r.writeLatencies(&b, "TPOT", func(s Summary) Spreads { return s.TPOT }, "ITL", func(s Summary) Spreads { return s.ITL })
		r.writeQueue(&b)
	}
	r.writeNotes(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) writeHead(b *strings.Builder) {
	o := r.Settings
	fmt.Fprintf(b, "%s, %s\n", r.Date.UTC().Format("2006-01-02 15:04 MST"), r.Machine)
	for _, t := range r.Servers {
		fmt.Fprintf(b, "%s: %s, %s API, version %s, model %s\n", t.Name, t.URL, t.API, cmp.Or(t.Version, "unknown"), t.Model)
	}
	fmt.Fprintf(b, "%d requests at each load, about %d prompt tokens, at most %d output tokens, seed %d\n",
		o.Requests, o.PromptTokens, o.MaxTokens, o.Seed)
	if n := r.repeats(); n > 1 {
		fmt.Fprintf(b, "medians of %d repeats\n", n)
	}
}

// repeats is how often loads were measured; fewer than asked for where it was interrupted.
func (r *Report) repeats() (most int) {
	for _, s := range r.Summary {
		most = max(most, s.Repeats)
	}
	return most
}

func (m Machine) String() string {
	return fmt.Sprintf("%s, %d cores, %s/%s", m.CPU, m.Cores, m.OS, m.Arch)
}

// columns starts a table; each row ends with a tab and a newline.
func columns(b *strings.Builder) *tabwriter.Writer {
	return tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
}

func (r *Report) writeRates(b *strings.Builder) {
	spread, good := r.repeats() > 1, r.Settings.Goodput.set()
	w := columns(b)
	defer w.Flush()
	fmt.Fprintf(w, "\nserver\t%s\tok\tfailed\tended early\tprompt\toutput tokens/s\t", r.Summary[0].unit())
	if spread {
		fmt.Fprint(w, "min–max\t")
	}
	fmt.Fprint(w, "total tokens/s\trequests/s\t")
	if good {
		fmt.Fprint(w, "good/s\t")
	}
	fmt.Fprintln(w)
	for _, s := range r.Summary {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%.0f\t%s\t", s.Server, s.load, s.Completed, s.Failed, s.EndedEarly,
			s.PromptTokens.Median, figure(s.OutputThroughput.Median))
		if spread {
			fmt.Fprintf(w, "%s\t", s.OutputThroughput.ends())
		}
		fmt.Fprintf(w, "%s\t%.2f\t", figure(s.TotalTokenThroughput.Median), s.RequestThroughput.Median)
		if good {
			fmt.Fprintf(w, "%.2f\t", s.RequestGoodput.Median)
		}
		fmt.Fprintln(w)
	}
}

// writeLatencies writes two distributions beside each other.
func (r *Report) writeLatencies(b *strings.Builder, left string, leftOf func(Summary) Spreads, right string, rightOf func(Summary) Spreads) {
	w := columns(b)
	defer w.Flush()
	spread := r.repeats() > 1
	fmt.Fprintf(w, "\nin ms\t%s\t", r.Summary[0].unit())
	for _, name := range []string{left, right} {
		fmt.Fprintf(w, "%s mean\tp50\tp95\t", name)
		if spread {
			fmt.Fprint(w, "min–max\t")
		}
		fmt.Fprint(w, "p99\t")
	}
	fmt.Fprintln(w)
	for _, s := range r.Summary {
		fmt.Fprintf(w, "%s\t%s\t", s.Server, s.load)
		for _, d := range []Spreads{leftOf(s), rightOf(s)} {
			fmt.Fprintf(w, "%s\t%s\t%s\t", d.cell(d.Mean), d.cell(d.P50), d.cell(d.P95))
			if spread {
				fmt.Fprintf(w, "%s\t", d.ends(d.P95))
			}
			fmt.Fprintf(w, "%s\t", d.cell(d.P99))
		}
		fmt.Fprintln(w)
	}
}

// writeQueue writes the queue waits, if a server tells them.
func (r *Report) writeQueue(b *strings.Builder) {
	w := columns(b)
	defer w.Flush()
	head := false
	for _, s := range r.Summary {
		d := s.Queue
		if d.Count == 0 {
			continue
		}
		if !head {
			head = true
			fmt.Fprintf(w, "\nin ms\t%s\tqueue mean\tp50\tp95\tp99\t\n", s.unit())
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t\n", s.Server, s.load, d.cell(d.Mean), d.cell(d.P50), d.cell(d.P95), d.cell(d.P99))
	}
}

// writeNotes says what a reader must know about the figures.
func (r *Report) writeNotes(b *strings.Builder) {
	var notes []string
	for _, s := range r.Summary {
		where := fmt.Sprintf("%s at %s %s", s.Server, s.load, s.unit())
		for _, f := range s.Failures {
			notes = append(notes, fmt.Sprintf("%s: %d failed, %s: %s", where, f.Count, f.Reason, f.First))
		}
		asked := float64(r.Settings.PromptTokens)
		if got := s.PromptTokens.Median; s.Completed > 0 && math.Abs(got-asked) > max(asked/10, 2) {
			notes = append(notes, fmt.Sprintf("%s: prompts had %.0f tokens, not the %.0f that were asked for", where, got, asked))
		}
	}
	if r.Interrupted {
		notes = append(notes, "interrupted: not everything was measured, and what was measured once may not be complete")
	}
	if len(notes) > 0 {
		fmt.Fprintf(b, "\n%s\n", strings.Join(notes, "\n"))
	}
}

// cell is one figure, or a dash where there was nothing to measure.
func (d Spreads) cell(s Spread) string {
	if d.Count == 0 {
		return "-"
	}
	return figure(s.Median)
}

// ends is the least and the greatest of the repeats.
func (d Spreads) ends(s Spread) string {
	if d.Count == 0 {
		return "-"
	}
	return s.ends()
}

func (s Spread) ends() string { return figure(s.Min) + "–" + figure(s.Max) }

// figure has three digits or more.
func figure(f float64) string {
	switch {
	case f >= 100:
		return fmt.Sprintf("%.0f", f)
	case f >= 10:
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprintf("%.2f", f)
}
