package tinymodel

import (
	"fmt"
	"math"

	"github.com/ollama/ollama/fs/ggml"
)

// The shape of the recurrent model.
const (
	mambaLayers = 2
	mambaWidth  = 32
	mambaInner  = 2 * mambaWidth // the only factor there is
	mambaState  = 8
	mambaRank   = 4
	mambaKernel = 4
)

// WriteRandomMamba writes a random model of the architecture mamba: one that
// keeps one state per sequence instead of a cache of positions, so that nothing
// of what it has read can be forgotten but all. It has Tiny's vocabulary.
func WriteRandomMamba(path string, seed uint64) error {
	v := ByteVocab()
	kv := ggml.KV{
		"general.architecture":                   "mamba",
		"general.name":                           "tiny mamba",
		"general.file_type":                      uint32(0),
		"mamba.block_count":                      uint32(mambaLayers),
		"mamba.context_length":                   uint32(1024),
		"mamba.embedding_length":                 uint32(mambaWidth),
		"mamba.feed_forward_length":              uint32(0),
		"mamba.attention.head_count":             uint32(0),
		"mamba.attention.layer_norm_rms_epsilon": float32(1e-6),
		"mamba.ssm.conv_kernel":                  uint32(mambaKernel),
		"mamba.ssm.inner_size":                   uint32(mambaInner),
		"mamba.ssm.state_size":                   uint32(mambaState),
		"mamba.ssm.time_step_rank":               uint32(mambaRank),
		"tokenizer.ggml.model":                   "gpt2",
		"tokenizer.ggml.pre":                     "qwen2",
		"tokenizer.ggml.tokens":                  v.Tokens,
		"tokenizer.ggml.token_type":              v.Types,
		"tokenizer.ggml.merges":                  v.Merges,
		"tokenizer.ggml.bos_token_id":            v.find("<|endoftext|>"),
		"tokenizer.ggml.eos_token_id":            v.find("<|im_end|>"),
		"tokenizer.ggml.add_bos_token":           false,
	}
	var list []*ggml.Tensor
	add := func(name string, mean, spread float64, shape ...uint64) {
		w := weights{name: name, seed: seed, mean: mean, spread: spread, count: 1}
		for _, n := range shape {
			w.count *= int(n)
		}
		list = append(list, &ggml.Tensor{Name: name, Kind: uint32(ggml.TensorTypeF32), Shape: shape, WriterTo: w})
	}
	matrix := func(name string, in, out uint64, gain float64) {
		add(name, 0, gain/math.Sqrt(float64(in)), in, out)
	}
	for i := range mambaLayers {
		blk := func(part string) string { return fmt.Sprintf("blk.%d.%s", i, part) }
		add(blk("attn_norm.weight"), 1, 0, mambaWidth)
		matrix(blk("ssm_in.weight"), mambaWidth, 2*mambaInner, 1.5)
		matrix(blk("ssm_conv1d.weight"), mambaKernel, mambaInner, 1.5)
		add(blk("ssm_conv1d.bias"), 0, 0.1, mambaInner)
		matrix(blk("ssm_x.weight"), mambaInner, mambaRank+2*mambaState, 2)
		matrix(blk("ssm_dt.weight"), mambaRank, mambaInner, 1)
		add(blk("ssm_dt.bias"), -2, 0.5, mambaInner) // slow to forget
		add(blk("ssm_a"), -1, 0.2, mambaState, mambaInner)
		add(blk("ssm_d"), 1, 0, mambaInner)
		matrix(blk("ssm_out.weight"), mambaInner, mambaWidth, 6)
	}
	add("output_norm.weight", 1, 0, mambaWidth)
	matrix("token_embd.weight", mambaWidth, uint64(len(v.Tokens)), logitSpread)
	return write(path, kv, list)
}
