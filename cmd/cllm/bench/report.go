package bench

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Report is all that a run has found. Its JSON is the file of --json.
type Report struct {
	Date         time.Time     `json:"date"`
	Machine      Machine       `json:"machine"` // of the bench
	Settings     Options       `json:"settings"`
	Servers      []*target     `json:"servers"`
	Interrupted  bool          `json:"interrupted"`
	Summary      []Summary     `json:"summary"`
	Measurements []Measurement `json:"measurements"`
}

// Machine is where the bench ran.
type Machine struct {
	CPU   string `json:"cpu"`
	Cores int    `json:"cores"`
	OS    string `json:"os"`
	Arch  string `json:"arch"`
}

func thisMachine() Machine {
	m := Machine{CPU: "unknown", Cores: runtime.NumCPU(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return m // not Linux
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if strings.TrimSpace(name) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	return m
}

// Summary is one load on one server over all repeats. Requests are added up,
// figures are medians with their spread.
type Summary struct {
	Server string `json:"server"`
	load
	Repeats int `json:"repeats"`

	Completed  int       `json:"completed"`
	Failed     int       `json:"failed"`
	Failures   []Failure `json:"failures,omitempty"`
	EndedEarly int       `json:"ended_early"`

	// PromptTokens is the mean length of a prompt.
	PromptTokens         Spread `json:"prompt_tokens"`
	RequestThroughput    Spread `json:"request_throughput"`
	OutputThroughput     Spread `json:"output_throughput"`
	TotalTokenThroughput Spread `json:"total_token_throughput"`
	RequestGoodput       Spread `json:"request_goodput"`

	TTFT  Spreads `json:"ttft_ms"`
	TPOT  Spreads `json:"tpot_ms"`
	ITL   Spreads `json:"itl_ms"`
	E2EL  Spreads `json:"e2el_ms"`
	Queue Spreads `json:"queue_ms"`
}

// Spreads is a distribution over the repeats that have one.
type Spreads struct {
	Count int    `json:"count"` // of samples
	Mean  Spread `json:"mean"`
	P50   Spread `json:"p50"`
	P95   Spread `json:"p95"`
	P99   Spread `json:"p99"`
	Max   Spread `json:"max"`
}

// summarize joins the repeats, in the order in which loads and servers came first.
// One that was interrupted counts only where there is no other.
func summarize(all []Measurement) []Summary {
	var sums []Summary
	for i, first := range all {
		same := func(m Measurement) bool { return m.Server == first.Server && m.load == first.load }
		if slices.ContainsFunc(all[:i], same) {
			continue
		}
		var repeats []Measurement
		for _, m := range all[i:] {
			if same(m) && !m.Interrupted {
				repeats = append(repeats, m)
			}
		}
		if len(repeats) == 0 {
			repeats = append(repeats, first)
		}
		sums = append(sums, summary(repeats))
	}
	return sums
}

func summary(repeats []Measurement) Summary {
	s := Summary{Server: repeats[0].Server, load: repeats[0].load, Repeats: len(repeats)}
	over := func(figure func(Measurement) float64) Spread {
		var values []float64
		for _, m := range repeats {
			values = append(values, figure(m))
		}
		return SpreadOf(values)
	}
	for _, m := range repeats {
		s.Completed += m.Completed
		s.Failed += m.Failed
		s.EndedEarly += m.EndedEarly
		for _, f := range m.Failures {
			s.Failures = withFailure(s.Failures, f)
		}
	}
	s.PromptTokens = over(func(m Measurement) float64 { return float64(m.InputTokens) / float64(max(m.Completed, 1)) })
	s.RequestThroughput = over(func(m Measurement) float64 { return m.RequestThroughput })
	s.OutputThroughput = over(func(m Measurement) float64 { return m.OutputThroughput })
	s.TotalTokenThroughput = over(func(m Measurement) float64 { return m.TotalTokenThroughput })
	s.RequestGoodput = over(func(m Measurement) float64 { return m.RequestGoodput })
	s.TTFT = spreads(repeats, func(m Measurement) Distribution { return m.TTFT })
	s.TPOT = spreads(repeats, func(m Measurement) Distribution { return m.TPOT })
	s.ITL = spreads(repeats, func(m Measurement) Distribution { return m.ITL })
	s.E2EL = spreads(repeats, func(m Measurement) Distribution { return m.E2EL })
	s.Queue = spreads(repeats, func(m Measurement) Distribution { return m.Queue })
	return s
}

func spreads(repeats []Measurement, of func(Measurement) Distribution) Spreads {
	var s Spreads
	var mean, p50, p95, p99, most []float64
	for _, m := range repeats {
		d := of(m)
		if d.Count == 0 {
			continue // nothing was measured, which is not a time of 0
		}
		s.Count += d.Count
		mean, p50, p95 = append(mean, d.Mean), append(p50, d.P50), append(p95, d.P95)
		p99, most = append(p99, d.P99), append(most, d.Max)
	}
	s.Mean, s.P50, s.P95, s.P99, s.Max = SpreadOf(mean), SpreadOf(p50), SpreadOf(p95), SpreadOf(p99), SpreadOf(most)
	return s
}

// Join puts the reports of several runs into one, as if all had been measured in one
// run: a load that was measured before on the same server is another repeat. Settings
// are the first run's, but for the loads and the repeats; requests and seed are left out
// where not all have the same.
func Join(runs []*Report) *Report {
	all := *runs[0]
	all.Servers, all.Measurements, all.Interrupted = nil, nil, false
	all.Settings.Concurrency, all.Settings.Rate, all.Settings.Repeat = nil, nil, 0
	for _, r := range runs {
		for _, t := range r.Servers {
			if !slices.ContainsFunc(all.Servers, func(have *target) bool { return have.Name == t.Name }) {
				all.Servers = append(all.Servers, t)
			}
		}
		for _, m := range r.Measurements {
			m.Repeat = 1
			for _, before := range all.Measurements {
				if before.Server == m.Server && before.load == m.load {
					m.Repeat = before.Repeat + 1
				}
			}
			all.Settings.Repeat = max(all.Settings.Repeat, m.Repeat)
			all.Measurements = append(all.Measurements, m)
		}
		if r.Settings.Requests != all.Settings.Requests {
			all.Settings.Requests = 0
		}
		if r.Settings.Seed != all.Settings.Seed {
			all.Settings.Seed = 0
		}
		all.Settings.Concurrency = append(all.Settings.Concurrency, r.Settings.Concurrency...)
		all.Settings.Rate = append(all.Settings.Rate, r.Settings.Rate...)
		all.Interrupted = all.Interrupted || r.Interrupted
	}
	slices.Sort(all.Settings.Concurrency)
	slices.Sort(all.Settings.Rate)
	all.Settings.Concurrency = slices.Compact(all.Settings.Concurrency)
	all.Settings.Rate = slices.Compact(all.Settings.Rate)
	all.Summary = summarize(all.Measurements)
	return &all
}

// Failed returns how many requests failed, and of how many.
func (r *Report) Failed() (failed, of int) {
	for _, m := range r.Measurements {
		failed += m.Failed
		of += m.Failed + m.Completed
	}
	return failed, of
}

// WriteJSON writes the report to a file.
func (r *Report) WriteJSON(name string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("the report as JSON: %w", err)
	}
	return os.WriteFile(name, append(text, '\n'), 0o644)
}
