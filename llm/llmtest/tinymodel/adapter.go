package tinymodel

import (
	"fmt"
	"math"

	"github.com/ollama/ollama/fs/ggml"
)

// WriteAdapter writes a random LoRA adapter for the query and the down
// projections of a model of this shape.
func WriteAdapter(path string, s Shape, rank int, seed uint64) error {
	kv := ggml.KV{
		"general.architecture": "qwen3",
		"general.type":         "adapter",
		"general.name":         s.Name + " adapter",
		"adapter.type":         "lora",
		"adapter.lora.alpha":   float32(rank),
	}
	var list []*ggml.Tensor
	add := func(name string, in, out int) {
		list = append(list, &ggml.Tensor{
			Name:  name,
			Kind:  uint32(ggml.TensorTypeF32),
			Shape: []uint64{uint64(in), uint64(out)},
			WriterTo: weights{
				name:   name,
				seed:   seed,
				count:  in * out,
				spread: 1 / math.Sqrt(float64(in)),
			},
		})
	}
	for i := range s.Layers {
		for part, size := range map[string][2]int{
			"attn_q":   {s.Width, s.Heads * s.HeadWidth},
			"ffn_down": {s.FeedForward, s.Width},
		} {
			add(fmt.Sprintf("blk.%d.%s.weight.lora_a", i, part), size[0], rank)
			add(fmt.Sprintf("blk.%d.%s.weight.lora_b", i, part), rank, size[1])
		}
	}
	return write(path, kv, list)
}
