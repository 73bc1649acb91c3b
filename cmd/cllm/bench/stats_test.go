package bench

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

func TestPercentilesInterpolateLinearly(t *testing.T) {
	// The wanted values are those of numpy.percentile.
	ten := []float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	tests := []struct {
		samples []float64
		p, want float64
	}{
		{nil, 50, 0},
		{[]float64{7}, 1, 7},
		{[]float64{7}, 99, 7},
		{[]float64{1, 2}, 50, 1.5},
		{[]float64{1, 2}, 99, 1.99},
		{[]float64{10, 20, 40}, 50, 20},
		{[]float64{10, 20, 40}, 75, 30},
		{ten, 0, 1},
		{ten, 50, 5.5},
		{ten, 95, 9.55},
		{ten, 99, 9.91},
		{ten, 100, 10},
	}
	for _, test := range tests {
		if got := percentile(test.samples, test.p); math.Abs(got-test.want) > 1e-9 {
			t.Errorf("percentile %v of %v is %v, want %v", test.p, test.samples, got, test.want)
		}
	}
	d := distribution([]float64{4, 1, 3, 2})
	if want := (Distribution{Count: 4, Mean: 2.5, P50: 2.5, P95: 3.85, P99: 3.97, Max: 4}); math.Abs(d.P95-want.P95)+math.Abs(d.P99-want.P99) > 1e-9 || d.Count != 4 || d.Mean != 2.5 || d.P50 != 2.5 || d.Max != 4 {
		t.Errorf("the distribution is %+v, want %+v", d, want)
	}
	if s := SpreadOf([]float64{5, 1, 2}); s != (Spread{Median: 2, Min: 1, Max: 5}) {
		t.Errorf("the spread is %+v", s)
	}
}

func TestMoreGapsThanAreKeptLeaveASampleOfAll(t *testing.T) {
	g := gaps{limit: 1000, rng: rand.New(rand.NewPCG(1, 2))}
	for i := range 100_000 {
		g.add(time.Duration(i+1) * time.Millisecond)
	}
	d := g.distribution()
	if len(g.kept) != 1000 || d.Count != 100_000 || d.Mean != 50_000.5 || d.Max != 100_000 {
		t.Errorf("%d kept, %+v; want 1000 kept, and count, mean and maximum of all", len(g.kept), d)
	}
	// A sample of 1000 has its median within 5 standard errors (1581) of all's.
	if math.Abs(d.P50-50_000) > 8_000 {
		t.Errorf("the median of the sample is %v, that of all 50000", d.P50)
	}
}
