package bench

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/go-analyze/charts"
)

const (
	panelWidth  = 640
	panelHeight = 420
)

// WritePlot draws output tokens/s and p95 of E2EL against the load, one line for each
// server, into name.png and name.svg. The loads stand at equal distances.
func (r *Report) WritePlot(name string) error {
	if len(r.Summary) == 0 {
		return errors.New("nothing was measured that could be plotted")
	}
	name = strings.TrimSuffix(strings.TrimSuffix(name, ".png"), ".svg")
	for _, format := range []string{charts.ChartOutputPNG, charts.ChartOutputSVG} {
		picture, err := r.plot(format)
		if err != nil {
			return fmt.Errorf("the plot as %s: %w", format, err)
		}
		if err := os.WriteFile(name+"."+format, picture, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (r *Report) plot(format string) ([]byte, error) {
	p := charts.NewPainter(charts.PainterOptions{OutputFormat: format, Width: 2 * panelWidth, Height: panelHeight})
	p.FilledRect(0, 0, 2*panelWidth, panelHeight, charts.ColorWhite, charts.ColorWhite, 0)
	panels := []struct {
		title string
		value func(Summary) (value float64, measured bool)
	}{
		{"output tokens/s", func(s Summary) (float64, bool) { return s.OutputThroughput.Median, true }},
		{"p95 of end-to-end latency, ms", func(s Summary) (float64, bool) { return s.E2EL.P95.Median, s.E2EL.Count > 0 }},
	}
	for i, panel := range panels {
		box := charts.NewBox(i*panelWidth, 0, (i+1)*panelWidth, panelHeight)
		opt := charts.NewLineChartOptionWithSeries(r.lines(panel.value))
		opt.Padding = charts.NewBoxEqual(16)
		opt.Title.Text = panel.title
		opt.Legend.Offset = charts.OffsetRight
		opt.XAxis.Title = axisTitles[r.Summary[0].unit()]
		opt.XAxis.Labels = r.labels()
		opt.YAxis = []charts.YAxisOption{{Min: charts.Ptr(0.0)}}
		opt.ValueFormatter = func(f float64) string { return charts.FormatValueHumanize(f, 1, false) }
		if err := p.Child(charts.PainterBoxOption(box)).LineChart(opt); err != nil {
			return nil, err
		}
	}
	return p.Bytes()
}

var axisTitles = map[string]string{"clients": "concurrent clients", "rate/s": "requests/s that arrive"}

func (r *Report) labels() []string {
	var labels []string
	for _, l := range r.Settings.loads() {
		labels = append(labels, l.String())
	}
	return labels
}

// lines is a figure of each server at each load. What was not measured is a gap.
func (r *Report) lines(value func(Summary) (float64, bool)) charts.LineSeriesList {
	var lines charts.LineSeriesList
	for _, t := range r.Servers {
		line := charts.LineSeries{Name: t.Name}
		for _, l := range r.Settings.loads() {
			at := charts.GetNullValue()
			for _, s := range r.Summary {
				if v, measured := value(s); s.Server == t.Name && s.load == l && measured {
					at = v
				}
			}
			line.Values = append(line.Values, at)
		}
		lines = append(lines, line)
	}
	return lines
}
