package bench

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Distribution describes samples, in ms.
type Distribution struct {
	Count int     `json:"count"`
	Mean  float64 `json:"mean"`
	P50   float64 `json:"p50"`
	P95   float64 `json:"p95"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

// distribution sorts the samples.
func distribution(samples []float64) Distribution {
	if len(samples) == 0 {
		return Distribution{}
	}
	slices.Sort(samples)
	var sum float64
	for _, s := range samples {
		sum += s
	}
	return Distribution{
		Count: len(samples), Mean: sum / float64(len(samples)), Max: samples[len(samples)-1],
		P50: percentile(samples, 50), P95: percentile(samples, 95), P99: percentile(samples, 99),
	}
}

// percentile interpolates linearly between the two sorted samples around the place
// p/100 · (n−1), as vLLM's benchmark (numpy.percentile) does. One sample is all
// percentiles; none is 0.
func percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	place := p / 100 * float64(len(sorted)-1)
	below := int(math.Floor(place))
	above := min(below+1, len(sorted)-1)
	return sorted[below] + (place-float64(below))*(sorted[above]-sorted[below])
}

// gapLimit is how many gaps a measurement keeps: 8 MiB.
const gapLimit = 1 << 20

// gaps keeps gaps between chunks, in ms: all of them up to limit, then a sample in
// which each is as likely as any other (reservoir sampling). Count, mean and maximum
// are exact.
type gaps struct {
	limit    int
	rng      *rand.Rand
	kept     []float64
	count    int
	sum, max float64
}

func (g *gaps) add(gap time.Duration) {
	ms := inMS(gap)
	g.count++
	g.sum += ms
	g.max = max(g.max, ms)
	if len(g.kept) < g.limit {
		g.kept = append(g.kept, ms)
	} else if i := g.rng.IntN(g.count); i < g.limit {
		g.kept[i] = ms
	}
}

func (g *gaps) distribution() Distribution {
	d := distribution(g.kept)
	if g.count > 0 {
		d.Count, d.Mean, d.Max = g.count, g.sum/float64(g.count), g.max
	}
	return d
}

func inMS(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Spread is a figure over the repeats.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// SpreadOf is the spread of a figure, given once for each repeat.
func SpreadOf(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	values = slices.Sorted(slices.Values(values))
	return Spread{Median: percentile(values, 50), Min: values[0], Max: values[len(values)-1]}
}
