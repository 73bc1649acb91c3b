package scheduler

import (
	"sync"
	"testing"

	"cllm/llm"
	"cllm/llm/llmtest"
)

// idleEmbedder gives all texts one vector: what is left is the dealing.
type idleEmbedder struct {
	*llmtest.Embedder
	vector []float32
}

func (e idleEmbedder) Embed(parts []llm.EmbedPart) error {
	for i := range parts {
		parts[i].Vector = e.vector
	}
	return nil
}

// BenchmarkEmbeddings is the time per text, without the embedder's, of 16 clients
// that have 100 short texts each.
func BenchmarkEmbeddings(b *testing.B) {
	idle := idleEmbedder{llmtest.NewEmbedder(llmtest.EmbedOptions{Limits: llm.EmbedLimits{Sequences: 128}}), make([]float32, 8)}
	e := NewEmbeddings(func() (llm.Embedder, error) { return idle, nil }, EmbeddingsOptions{})
	go e.Run()
	defer e.Close()
	all := texts(1, 100, 12)
	rounds := 0
	for b.Loop() {
		var clients sync.WaitGroup
		for range 16 {
			clients.Go(func() {
				if _, err := e.Embed(b.Context(), all); err != nil {
					b.Error(err)
				}
			})
		}
		clients.Wait()
		rounds++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(rounds*1600), "ns/text")
}
