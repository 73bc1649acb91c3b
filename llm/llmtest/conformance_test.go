package llmtest

import (
	"testing"

	"cllm/llm"
)

func TestFakeEngineConforms(t *testing.T) {
	for name, o := range map[string]Options{
		"split":            {Limits: llm.Limits{Sequences: 8, Context: 256, Batch: 128}},
		"unified":          {Limits: llm.Limits{Sequences: 8, Context: 256, Batch: 128, Unified: true}},
		"without shift":    {Limits: llm.Limits{Sequences: 4, Context: 64, Batch: 64}, NoShift: true},
		"without truncate": {Limits: llm.Limits{Sequences: 4, Context: 64, Batch: 64}, NoTruncate: true},
	} {
		t.Run(name, func(t *testing.T) {
			TestEngine(t, func(*testing.T) (llm.Engine, llm.Vocab) { return NewEngine(o), Vocab{} })
		})
	}
}

func TestFakeEmbedderConforms(t *testing.T) {
	for name, l := range map[string]llm.EmbedLimits{
		"whole texts":    {Sequences: 8, Context: 128, Batch: 64, Whole: true},
		"texts in parts": {Sequences: 4, Context: 200, Batch: 64},
		"by default":     {},
	} {
		t.Run(name, func(t *testing.T) {
			TestEmbedder(t, func(*testing.T) (llm.Embedder, llm.Vocab) {
				return NewEmbedder(EmbedOptions{Limits: l}), Vocab{}
			})
		})
	}
}
