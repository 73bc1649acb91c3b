// Package tinymodel writes model files with random weights: tiny ones for tests,
// and models of real size for benchmarks. They answer nonsense, but they run as a
// trained model of their shape does.
//
// A file is the same for the same shape and seed. The weights are drawn so that
// the answers depend on the whole prompt and on the order of its tokens, that no
// two tokens are about equally likely more often than by chance, and that
// control tokens are unlikely: an answer runs on until its limit.
package tinymodel

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/ollama/ollama/fs/ggml"
)

// Shape describes a model of the architecture qwen3.
type Shape struct {
	Name        string
	Layers      int
	Width       int // of an embedding
	FeedForward int
	Heads       int // query heads
	KVHeads     int
	HeadWidth   int
	Context     int // positions trained for, it says
	RopeBase    float32
	Half        bool // weights of 16 bits instead of 32
	Vocab       Vocab
}

// Tiny is a model of under 400 KB: what tests need that look at no meaning.
var Tiny = Shape{
	Name:        "tiny",
	Layers:      2,
	Width:       64,
	FeedForward: 64,
	Heads:       2,
	KVHeads:     1,
	HeadWidth:   64,
	Context:     1024,
	RopeBase:    10000,
	Vocab:       ByteVocab(),
}

// WriteRandom writes a random model to path, in GGUF. The file appears under its
// name when it is complete.
func WriteRandom(path string, s Shape, seed uint64) error {
	return WriteRandomContext(context.Background(), path, s, seed, nil)
}

// WriteRandomContext is WriteRandom for large models: it ends when ctx is done
// and tells its progress, 0 to 1, from several goroutines. progress may be nil.
func WriteRandomContext(ctx context.Context, path string, s Shape, seed uint64, progress func(float32)) error {
	tensors := s.tensors(seed)
	all := s.Parameters()
	var done atomic.Int64
	step := func(n int) error {
		if now := done.Add(int64(n)); progress != nil {
			progress(float32(now) / float32(all))
		}
		return ctx.Err()
	}
	for _, t := range tensors {
		w := t.WriterTo.(weights)
		w.step = step
		t.WriterTo = w
	}
	return write(path, s.metadata(), tensors)
}

func write(path string, kv ggml.KV, tensors []*ggml.Tensor) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write model: %w", err)
	}
	err = ggml.WriteGGUF(f, kv, tensors)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write model %s: %w", path, err)
	}
	return nil
}

// Parameters is the number of weights.
func (s Shape) Parameters() int64 {
	var n int64
	for _, t := range s.tensors(0) {
		n += int64(t.Elements())
	}
	return n
}

func (s Shape) metadata() ggml.KV {
	fileType := uint32(0)
	if s.Half {
		fileType = 1
	}
	return ggml.KV{
		"general.architecture":                   "qwen3",
		"general.name":                           s.Name,
		"general.file_type":                      fileType,
		"general.quantization_version":           uint32(2),
		"qwen3.block_count":                      uint32(s.Layers),
		"qwen3.context_length":                   uint32(s.Context),
		"qwen3.embedding_length":                 uint32(s.Width),
		"qwen3.feed_forward_length":              uint32(s.FeedForward),
		"qwen3.attention.head_count":             uint32(s.Heads),
		"qwen3.attention.head_count_kv":          uint32(s.KVHeads),
		"qwen3.attention.key_length":             uint32(s.HeadWidth),
		"qwen3.attention.value_length":           uint32(s.HeadWidth),
		"qwen3.attention.layer_norm_rms_epsilon": float32(1e-6),
		"qwen3.rope.freq_base":                   s.RopeBase,
		"tokenizer.ggml.model":                   "gpt2",
		"tokenizer.ggml.pre":                     "qwen2",
		"tokenizer.ggml.tokens":                  s.Vocab.Tokens,
		"tokenizer.ggml.token_type":              s.Vocab.Types,
		"tokenizer.ggml.merges":                  s.Vocab.Merges,
		"tokenizer.ggml.bos_token_id":            s.Vocab.find("<|endoftext|>"),
		"tokenizer.ggml.eos_token_id":            s.Vocab.find("<|im_end|>"),
		"tokenizer.ggml.padding_token_id":        s.Vocab.find("<|endoftext|>"),
		"tokenizer.ggml.add_bos_token":           false,
		"tokenizer.chat_template":                chatML,
	}
}

// chatML is the chat template in Jinja.
const chatML = `{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}` +
	`{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`

// How strongly the parts of the network speak. Every weight matrix keeps the
// variance of what goes through it, times its gain squared.
const (
	logitSpread = 3.0  // standard deviation of the logits
	streamPower = 36.0 // variance that all layers together add to the stream
	attendGain  = 3.0  // of the query norm: attention picks few positions
	valueGain   = 1.6  // makes up for what attention averages away
	quiet       = 0.05 // of the embeddings of control tokens
)

func (s Shape) tensors(seed uint64) []*ggml.Tensor {
	var list []*ggml.Tensor
	kind := uint32(ggml.TensorTypeF32)
	if s.Half {
		kind = uint32(ggml.TensorTypeF16)
	}
	add := func(name string, kind uint32, w weights, shape ...uint64) {
		w.name, w.seed, w.half = name, seed, kind == uint32(ggml.TensorTypeF16)
		w.count = 1
		for _, n := range shape {
			w.count *= int(n)
		}
		list = append(list, &ggml.Tensor{Name: name, Kind: kind, Shape: shape, WriterTo: w})
	}
	matrix := func(name string, in, out int, gain float64) {
		add(name, kind, weights{spread: gain / math.Sqrt(float64(in))}, uint64(in), uint64(out))
	}
	norm := func(name string, width int, gain float64) {
		add(name, uint32(ggml.TensorTypeF32), weights{mean: gain}, uint64(width))
	}
	layer := math.Sqrt(streamPower / float64(2*s.Layers)) // gain of each half of a layer
	for i := range s.Layers {
		blk := func(part string) string { return fmt.Sprintf("blk.%d.%s.weight", i, part) }
		norm(blk("attn_norm"), s.Width, 1)
		matrix(blk("attn_q"), s.Width, s.Heads*s.HeadWidth, 1)
		matrix(blk("attn_k"), s.Width, s.KVHeads*s.HeadWidth, 1)
		matrix(blk("attn_v"), s.Width, s.KVHeads*s.HeadWidth, valueGain)
		norm(blk("attn_q_norm"), s.HeadWidth, attendGain)
		norm(blk("attn_k_norm"), s.HeadWidth, 1)
		matrix(blk("attn_output"), s.Heads*s.HeadWidth, s.Width, layer)
		norm(blk("ffn_norm"), s.Width, 1)
		matrix(blk("ffn_gate"), s.Width, s.FeedForward, 1.5)
		matrix(blk("ffn_up"), s.Width, s.FeedForward, 1)
		matrix(blk("ffn_down"), s.FeedForward, s.Width, layer)
	}
	norm("output_norm.weight", s.Width, 1)
	add("token_embd.weight", kind, weights{
		spread: logitSpread / math.Sqrt(float64(s.Width)),
		width:  s.Width,
		quiet:  s.Vocab.controls(),
	}, uint64(s.Width), uint64(len(s.Vocab.Tokens)))
	return list
}

// Vocab is a byte-level BPE vocabulary, as GGUF files store it.
type Vocab struct {
	Tokens []string // bytes are written as GPT-2 does, see encode
	Types  []int32  // typeNormal, typeControl, or what else GGUF knows
	Merges []string // pairs with a space between, the earlier the better
}

const (
	typeNormal  = 1
	typeControl = 3
)

// ByteVocab returns a vocabulary of all bytes, a few frequent pairs, and
// ChatML's control tokens.
func ByteVocab() Vocab {
	var v Vocab
	for b := range 256 {
		v.Tokens = append(v.Tokens, encode(string([]byte{byte(b)})))
		v.Types = append(v.Types, typeNormal)
	}
	for _, pair := range [][2]string{
		{" ", "t"}, {"h", "e"}, {" t", "he"}, {"i", "n"}, {" ", "a"}, {"r", "e"}, {"o", "n"}, {"e", "r"},
		{" ", "s"}, {"a", "n"}, {"in", "g"}, {"l", "l"}, {" ", "w"}, {"o", "u"}, {" ", " "}, {"\n", "\n"},
	} {
		v.Tokens = append(v.Tokens, encode(pair[0]+pair[1]))
		v.Types = append(v.Types, typeNormal)
		v.Merges = append(v.Merges, encode(pair[0])+" "+encode(pair[1]))
	}
	for _, name := range []string{"<|endoftext|>", "<|im_start|>", "<|im_end|>"} {
		v.Tokens = append(v.Tokens, name)
		v.Types = append(v.Types, typeControl)
	}
	return v
}

// encode writes each byte as a printable character: itself where it is one in
// Latin-1, the next free one from U+0100 on otherwise.
func encode(bytes string) string {
	var out strings.Builder
	for _, b := range []byte(bytes) {
		r, hidden := rune(b), rune(0)
		for c := range rune(b) {
			if !printable(c) {
				hidden++
			}
		}
		if !printable(r) {
			r = 0x100 + hidden
		}
		out.WriteRune(r)
	}
	return out.String()
}

func printable(r rune) bool {
	return r >= '!' && r <= '~' || r >= 0xa1 && r <= 0xac || r >= 0xae && r <= 0xff
}

// find returns the number of a token; 0 when there is none.
func (v Vocab) find(token string) uint32 {
	for i, t := range v.Tokens {
		if t == token {
			return uint32(i)
		}
	}
	return 0
}

// controls marks the control tokens.
func (v Vocab) controls() []bool {
	marks := make([]bool, len(v.Types))
	for i, t := range v.Types {
		marks[i] = t != typeNormal
	}
	return marks
}
