//go:build cgo && chainbench

package llama

import "testing"

func BenchmarkLlamaCppChain(b *testing.B) {
	row := logitsRow()
	c := newSamplerChain(len(row))
	defer c.close()
	for b.Loop() {
		c.sample(row)
	}
}
