package tinymodel

import (
	"fmt"
	"math"

	"github.com/ollama/ollama/fs/ggml"
)

// The shape of the embedding model.
const (
	bertLayers  = 2
	bertWidth   = 64
	bertForward = 128
	bertContext = 128
	poolingMean = 1
)

// WriteRandomBERT writes a random model of the architecture bert: one that gives
// embeddings of 64 numbers and no answers. Its words are single letters and
// digits; it was trained for 128 positions, it says.
func WriteRandomBERT(path string, seed uint64) error {
	tokens := []string{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
	types := []int32{typeControl, typeControl, typeControl, typeControl, typeControl}
	for _, c := range "abcdefghijklmnopqrstuvwxyz0123456789.,!?" {
		// A word starts with U+2581; what goes on within a word stands bare.
		tokens = append(tokens, "\u2581"+string(c), string(c))
		types = append(types, typeNormal, typeNormal)
	}
	kv := ggml.KV{
		"general.architecture":              "bert",
		"general.name":                      "tiny bert",
		"general.file_type":                 uint32(0),
		"bert.block_count":                  uint32(bertLayers),
		"bert.context_length":               uint32(bertContext),
		"bert.embedding_length":             uint32(bertWidth),
		"bert.feed_forward_length":          uint32(bertForward),
		"bert.attention.head_count":         uint32(2),
		"bert.attention.layer_norm_epsilon": float32(1e-6),
		"bert.attention.causal":             false,
		"bert.pooling_type":                 uint32(poolingMean),
		"tokenizer.ggml.model":              "bert",
		"tokenizer.ggml.tokens":             tokens,
		"tokenizer.ggml.token_type":         types,
		"tokenizer.ggml.token_type_count":   uint32(2),
		"tokenizer.ggml.padding_token_id":   uint32(0),
		"tokenizer.ggml.unknown_token_id":   uint32(1),
		"tokenizer.ggml.bos_token_id":       uint32(2),
		"tokenizer.ggml.cls_token_id":       uint32(2),
		"tokenizer.ggml.seperator_token_id": uint32(3), // GGUF's spelling
		"tokenizer.ggml.mask_token_id":      uint32(4),
	}
	var list []*ggml.Tensor
	add := func(name string, mean, spread float64, shape ...uint64) {
		w := weights{name: name, seed: seed, mean: mean, spread: spread, count: 1}
		for _, n := range shape {
			w.count *= int(n)
		}
		list = append(list, &ggml.Tensor{Name: name, Kind: uint32(ggml.TensorTypeF32), Shape: shape, WriterTo: w})
	}
	norm := func(name string) {
		add(name+".weight", 1, 0, bertWidth)
		add(name+".bias", 0, 0, bertWidth)
	}
	matrix := func(name string, in, out uint64) {
		add(name+".weight", 0, 2/math.Sqrt(float64(in)), in, out)
		add(name+".bias", 0, 0.1, out)
	}
	add("token_embd.weight", 0, 1, bertWidth, uint64(len(tokens)))
	add("token_types.weight", 0, 0.1, bertWidth, 2)
	add("position_embd.weight", 0, 0.3, bertWidth, bertContext)
	norm("token_embd_norm")
	for i := range bertLayers {
		blk := func(part string) string { return fmt.Sprintf("blk.%d.%s", i, part) }
		matrix(blk("attn_q"), bertWidth, bertWidth)
		matrix(blk("attn_k"), bertWidth, bertWidth)
		matrix(blk("attn_v"), bertWidth, bertWidth)
		matrix(blk("attn_output"), bertWidth, bertWidth)
		norm(blk("attn_output_norm"))
		matrix(blk("ffn_up"), bertWidth, bertForward)
		matrix(blk("ffn_down"), bertForward, bertWidth)
		norm(blk("layer_output_norm"))
	}
	return write(path, kv, list)
}
