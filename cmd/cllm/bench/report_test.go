package bench

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write testdata/golden as the tests get it")

// sample is a report of two repeats, of which the slow server failed one.
func sample() *Report {
	dist := func(n int, ms float64) Distribution { return Distribution{n, ms, ms, ms * 2, ms * 3, ms * 4} }
	start := time.Date(2026, 11, 26, 1, 0, 0, 0, time.UTC)
	var all []Measurement
	for repeat := 1; repeat <= 2; repeat++ {
		for _, c := range []int{8, 16} {
			x := float64(repeat) * float64(c)
			all = append(all,
				Measurement{
					Server: "cllm", load: load{Concurrency: c}, Repeat: repeat, Start: start, Duration: 75.5,
					Completed: 72, EndedEarly: 3, InputTokens: 72 * 64, OutputTokens: 3588,
					RequestThroughput: 0.95, OutputThroughput: 40 + x/10, TotalTokenThroughput: 108.5, RequestGoodput: 0.5,
					TTFT: dist(72, 10*x), TPOT: dist(72, 15*x), ITL: dist(3500, 15*x), E2EL: dist(72, 1000*x), Queue: dist(72, x/10),
				},
				Measurement{
					Server: "slow", load: load{Concurrency: c}, Repeat: repeat, Start: start, Duration: 600,
					Completed: 70, Failed: 2, Failures: []Failure{{"timeout", 1, "context deadline exceeded"}, {"HTTP 503", 1, "503: busy"}},
					InputTokens: 70 * 20, OutputTokens: 70, RequestThroughput: 0.1, OutputThroughput: 0.123, TotalTokenThroughput: 7.5,
					E2EL: dist(70, 2000*x),
				})
		}
	}
	return &Report{
		Date: start, Machine: Machine{"AMD EPYC", 2, "linux", "amd64"},
		Settings: Options{
			Concurrency: []int{8, 16}, Requests: 72, Repeat: 2, Timeout: time.Minute, PromptTokens: 64,
			MaxTokens: 50, Stream: true, Seed: 7, Goodput: Limits{TTFT: 1000},
		},
		Servers: []*target{
			{Name: "cllm", URL: "http://127.0.0.1:11434", API: apiOllama, Version: "0.17.4", Model: "m:latest"},
			{Name: "slow", URL: "http://127.0.0.1:8080", API: apiOpenAI, Model: "m.gguf"},
		},
		Interrupted: true, Summary: summarize(all), Measurements: all,
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got; go test -update writes it):\n%s", path, diff)
	}
}

func TestTheTableIsAsAgreed(t *testing.T) {
	var out bytes.Buffer
	if err := sample().WriteTable(&out); err != nil {
		t.Fatal(err)
	}
	golden(t, "table.txt", out.Bytes())
	out.Reset()
	r := sample()
	r.Settings.Repeat, r.Settings.Goodput, r.Interrupted = 1, Limits{}, false
	r.Settings.Concurrency, r.Settings.Rate = nil, []float64{0.5}
	r.Servers = r.Servers[:1]
	m := r.Measurements[0]
	m.load = load{Rate: 0.5}
	r.Measurements = []Measurement{m}
	r.Summary = summarize(r.Measurements)
	if err := r.WriteTable(&out); err != nil {
		t.Fatal(err)
	}
	golden(t, "table-rate.txt", out.Bytes())
}

func TestTheJSONIsAsAgreed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report.json")
	if err := sample().WriteJSON(file); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "report.json", text)
}

func TestARunThatWasInterruptedAtOnceStillHasATable(t *testing.T) {
	r := sample()
	r.Measurements, r.Summary = nil, nil
	var out bytes.Buffer
	if err := r.WriteTable(&out); err != nil || !strings.HasSuffix(out.String(), "interrupted: not everything was measured, and what was measured once may not be complete\n") {
		t.Errorf("%v\n%s", err, out.String())
	}
	if err := r.WritePlot(filepath.Join(t.TempDir(), "p")); err == nil {
		t.Error("nothing is plotted without an error")
	}
}

func TestThePlotsShowEachServerAtEachLoad(t *testing.T) {
	dir := t.TempDir()
	read := func(name string) []byte {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if err := sample().WritePlot(filepath.Join(dir, "plot")); err != nil {
		t.Fatal(err)
	}
	picture, err := png.Decode(bytes.NewReader(read("plot.png")))
	if err != nil {
		t.Fatal(err)
	}
	colors := map[any]bool{} // background, text, and a line for each server
	for x := 0; x < picture.Bounds().Dx(); x += 8 {
		for y := range picture.Bounds().Dy() {
			colors[picture.At(x, y)] = true
		}
	}
	if size := picture.Bounds().Size(); size.X != 2*panelWidth || size.Y != panelHeight || len(colors) < 4 {
		t.Errorf("the PNG has %v and %d colors", size, len(colors))
	}
	texts := svgTexts(t, read("plot.svg"))
	want := map[string]int{
		"cllm": 2, "slow": 2, "8": 2, "16": 2, "output tokens/s": 1, "p95 of end-to-end latency, ms": 1, "concurrent clients": 2,
	}
	for text, n := range want {
		if texts[text] != n {
			t.Errorf("the SVG says %q %d times, want %d; it says %v", text, texts[text], n, texts)
		}
	}
	for _, given := range []string{"other.png", "third.svg"} {
		if err := sample().WritePlot(filepath.Join(dir, given)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"other.png", "other.svg", "third.png", "third.svg"} {
		read(name)
	}
}

func TestAServersLineHasItsMediansAndGaps(t *testing.T) {
	r := sample()
	r.Summary = r.Summary[:3] // slow was not measured with 16 clients
	lines := r.lines(func(s Summary) (float64, bool) { return s.OutputThroughput.Median, true })
	if len(lines) != 2 || lines[0].Name != "cllm" || lines[1].Name != "slow" {
		t.Fatalf("the lines are %+v", lines)
	}
	got := [][]float64{lines[0].Values, lines[1].Values}
	null := r.lines(func(Summary) (float64, bool) { return 0, false })[0].Values[0]
	if diff := cmp.Diff([][]float64{{41.2, 42.4}, {0.123, null}}, got, cmp.Comparer(func(a, b float64) bool { return a == b || a-b < 1e-9 && b-a < 1e-9 })); diff != "" {
		t.Errorf("the values (-want +got):\n%s", diff)
	}
}

// svgTexts counts the texts of an SVG, which must be XML.
func svgTexts(t *testing.T, vector []byte) map[string]int {
	t.Helper()
	texts := map[string]int{}
	for d := xml.NewDecoder(bytes.NewReader(vector)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return texts
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := token.(xml.CharData); ok {
			texts[strings.TrimSpace(string(text))]++
		}
	}
}

func TestAnInterruptedRepeatDoesNotCountBesideAWholeOne(t *testing.T) {
	whole := Measurement{Server: "a", load: load{Concurrency: 8}, Repeat: 1, Completed: 72, OutputThroughput: 40}
	part := Measurement{Server: "a", load: load{Concurrency: 8}, Repeat: 2, Completed: 3, OutputThroughput: 2, Interrupted: true}
	if s := summarize([]Measurement{whole, part}); len(s) != 1 || s[0].Repeats != 1 || s[0].Completed != 72 || s[0].OutputThroughput.Min != 40 {
		t.Errorf("beside a whole repeat: %+v", s)
	}
	if s := summarize([]Measurement{part, whole}); len(s) != 1 || s[0].Repeats != 1 || s[0].Completed != 72 {
		t.Errorf("before a whole repeat: %+v", s)
	}
	if s := summarize([]Measurement{part}); len(s) != 1 || s[0].Completed != 3 {
		t.Errorf("alone: %+v", s)
	}
}

func TestJoinedRunsReadAsOneRun(t *testing.T) {
	want := sample()
	var runs []*Report
	for _, m := range want.Measurements {
		r := *want
		r.Servers, r.Interrupted = want.Servers[:1], m.Server == "slow"
		if m.Server == "slow" {
			r.Servers = want.Servers[1:]
		}
		r.Settings.Concurrency, r.Settings.Repeat = []int{m.Concurrency}, 1
		m.Repeat = 1
		r.Measurements = []Measurement{m}
		r.Summary = summarize(r.Measurements)
		runs = append(runs, &r)
	}
	var joined, whole bytes.Buffer
	got := Join(runs)
	for out, r := range map[*bytes.Buffer]*Report{&joined: got, &whole: want} {
		if err := r.WriteTable(out); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(whole.String(), joined.String()); diff != "" {
		t.Errorf("the table (-want +got):\n%s", diff)
	}
	for i, m := range want.Measurements {
		if got.Measurements[i].Repeat != m.Repeat {
			t.Errorf("measurement %d is repeat %d, want %d", i, got.Measurements[i].Repeat, m.Repeat)
		}
	}
	if s := got.Settings; s.Requests != want.Settings.Requests || s.Seed != want.Settings.Seed {
		t.Errorf("requests %d and seed %d are not those that all runs have", s.Requests, s.Seed)
	}
	runs[1].Settings.Requests++
	runs[1].Settings.Seed++
	if s := Join(runs).Settings; s.Requests != 0 || s.Seed != 0 {
		t.Errorf("requests %d and seed %d are not those of all runs", s.Requests, s.Seed)
	}
	if runs[0].Settings.Repeat != 1 || len(runs[0].Servers) != 1 || len(runs[0].Settings.Concurrency) != 1 {
		t.Errorf("joining has changed the first run: %+v", runs[0])
	}
}
