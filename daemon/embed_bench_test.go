package daemon

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"cllm/llm"
	"cllm/llm/llmtest"
)

// BenchmarkEmbedRequest is a request with 64 texts, HTTP and JSON included, without
// the embedder's time.
func BenchmarkEmbedRequest(b *testing.B) {
	vector := llmtest.Vector([]llm.Token{1}, 768)
	a := serveFake(b, always("ok"), func(o *Options, _ *llmtest.Options) {
		e := &o.Loader.(*fakeLoader).embed
		e.Limits.Width = len(vector)
		e.Vector = func([]llm.Token, int) []float32 { return append([]float32(nil), vector...) }
	})
	var texts []string
	for i := range 64 {
		texts = append(texts, fmt.Sprint(i, strings.Repeat(" word", 10)))
	}
	input, err := json.Marshal(texts)
	if err != nil {
		b.Fatal(err)
	}
	body := fmt.Sprintf(`{"model":"embedder","input":%s}`, input)
	for b.Loop() {
		if r := a.post("/api/embed", body); r.status != 200 {
			b.Fatal(r.body)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(texts)), "µs/text")
}
