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
