package tinymodel

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/x448/float16"
)

// Matrix is a tensor with its numbers. One dimension is a vector.
type Matrix struct {
	Name  string
	Shape []int // outermost first
	Data  []float32
}

// Folder is a model, or a LoRA adapter for one, as Hugging Face keeps them.
type Folder struct {
	Files   map[string]any // JSON files
	Tensors []Matrix
	File    string // that the tensors are in, without its ending
}

// RandomFolder makes a random model of the architecture LlamaForCausalLM or
// Qwen3ForCausalLM. A llama's heads have to be as wide as the model's width allows.
func RandomFolder(architecture string, s Shape, seed uint64) *Folder {
	f := &Folder{File: "model", Files: s.huggingFace(architecture)}
	add := func(name string, w weights, shape ...int) {
		w.name, w.seed, w.count = name, seed, 1
		for _, n := range shape {
			w.count *= n
		}
		var b bytes.Buffer
		_, _ = w.WriteTo(&b) // a buffer takes all
		data := make([]float32, w.count)
		for i := range data {
			data[i] = math.Float32frombits(binary.LittleEndian.Uint32(b.Bytes()[4*i:]))
		}
		f.Tensors = append(f.Tensors, Matrix{name, shape, data})
	}
	matrix := func(name string, in, out int, gain float64) {
		add(name, weights{spread: gain / math.Sqrt(float64(in))}, out, in)
	}
	norm := func(name string, width int) { add(name, weights{mean: 1, spread: 0.1}, width) }
	add("model.embed_tokens.weight", weights{spread: 1 / math.Sqrt(float64(s.Width))}, len(s.Vocab.Tokens), s.Width)
	for i := range s.Layers {
		at := func(part string) string { return fmt.Sprintf("model.layers.%d.%s.weight", i, part) }
		norm(at("input_layernorm"), s.Width)
		matrix(at("self_attn.q_proj"), s.Width, s.Heads*s.HeadWidth, 2)
		matrix(at("self_attn.k_proj"), s.Width, s.KVHeads*s.HeadWidth, 2)
		matrix(at("self_attn.v_proj"), s.Width, s.KVHeads*s.HeadWidth, 2)
		matrix(at("self_attn.o_proj"), s.Heads*s.HeadWidth, s.Width, 2)
		if architecture == "Qwen3ForCausalLM" {
			norm(at("self_attn.q_norm"), s.HeadWidth)
			norm(at("self_attn.k_norm"), s.HeadWidth)
		}
		norm(at("post_attention_layernorm"), s.Width)
		matrix(at("mlp.gate_proj"), s.Width, s.FeedForward, 1)
		matrix(at("mlp.up_proj"), s.Width, s.FeedForward, 1)
		matrix(at("mlp.down_proj"), s.FeedForward, s.Width, 1)
	}
	norm("model.norm.weight", s.Width)
	matrix("lm_head.weight", s.Width, len(s.Vocab.Tokens), 3)
	return f
}

// huggingFace is config.json and the files of the tokenizer.
func (s Shape) huggingFace(architecture string) map[string]any {
	vocab, added := map[string]int{}, []any{}
	for i, token := range s.Vocab.Tokens {
		if s.Vocab.Types[i] == typeControl {
			added = append(added, map[string]any{"id": i, "content": token, "special": true})
		} else {
			vocab[token] = i
		}
	}
	return map[string]any{
		"config.json": map[string]any{
			"architectures": []string{architecture}, "vocab_size": len(s.Vocab.Tokens),
			"hidden_size": s.Width, "intermediate_size": s.FeedForward, "num_hidden_layers": s.Layers,
			"num_attention_heads": s.Heads, "num_key_value_heads": s.KVHeads, "head_dim": s.HeadWidth,
			"max_position_embeddings": s.Context, "rope_theta": s.RopeBase, "rms_norm_eps": 1e-6,
		},
		"tokenizer.json": map[string]any{
			"added_tokens": added,
			"model":        map[string]any{"type": "BPE", "vocab": vocab, "merges": s.Vocab.Merges},
		},
		"tokenizer_config.json": map[string]any{
			"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
			"add_bos_token": false, "chat_template": chatML,
		},
	}
}

// RandomAdapter makes a LoRA for the query, key and down projections of a model, as
// PEFT writes them.
func (f *Folder) RandomAdapter(rank int, alpha float64, seed uint64) *Folder {
	a := &Folder{File: "adapter_model", Files: map[string]any{
		"adapter_config.json": map[string]any{"peft_type": "LORA", "r": rank, "lora_alpha": alpha},
	}}
	random := RandomFolder("LlamaForCausalLM", Shape{Layers: 1, Width: rank, FeedForward: 1, Heads: 1, KVHeads: 1, HeadWidth: 1, Vocab: Vocab{Tokens: make([]string, 1<<12), Types: make([]int32, 1<<12)}}, seed).Tensors[0].Data
	next := 0
	take := func(n int, gain float64) []float32 {
		data := make([]float32, n)
		for i := range data {
			data[i] = random[next%len(random)] * float32(gain*math.Sqrt(float64(rank)))
			next++
		}
		return data
	}
	for _, m := range f.Tensors {
		part, ok := strings.CutSuffix(m.Name, ".weight")
		if !ok || !strings.HasSuffix(part, "q_proj") && !strings.HasSuffix(part, "k_proj") && !strings.HasSuffix(part, "down_proj") {
			continue
		}
		out, in := m.Shape[0], m.Shape[1]
		a.Tensors = append(a.Tensors,
			Matrix{"base_model.model." + part + ".lora_A.weight", []int{rank, in}, take(rank*in, 1/math.Sqrt(float64(in)))},
			Matrix{"base_model.model." + part + ".lora_B.weight", []int{out, rank}, take(out*rank, 1/math.Sqrt(float64(rank)))})
	}
	return a
}

// Merged is the model with the adapter's changes in its own weights.
func (f *Folder) Merged(a *Folder) *Folder {
	config := a.Files["adapter_config.json"].(map[string]any)
	scale := float32(config["lora_alpha"].(float64)) / float32(config["r"].(int))
	merged := &Folder{Files: f.Files, File: f.File}
	byName := map[string]Matrix{}
	for _, m := range a.Tensors {
		byName[m.Name] = m
	}
	for _, m := range f.Tensors {
		part := "base_model.model." + strings.TrimSuffix(m.Name, ".weight")
		if b, ok := byName[part+".lora_B.weight"]; ok {
			la := byName[part+".lora_A.weight"]
			data := append([]float32(nil), m.Data...)
			out, in, rank := m.Shape[0], m.Shape[1], b.Shape[1]
			for o := range out {
				for i := range in {
					for r := range rank {
						data[o*in+i] += scale * b.Data[o*rank+r] * la.Data[r*in+i]
					}
				}
			}
			m.Data = data
		}
		merged.Tensors = append(merged.Tensors, m)
	}
	return merged
}

// Write writes the folder. dtype is F32, F16 or BF16; with parts above 1 the tensors
// are in so many files.
func (f *Folder) Write(dir, dtype string, parts int) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, content := range f.Files {
		raw, err := json.Marshal(content)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), raw, 0o644)
		}
		if err != nil {
			return err
		}
	}
	if parts <= 1 {
		return os.WriteFile(filepath.Join(dir, f.File+".safetensors"), Safetensors(f.Tensors, dtype), 0o644)
	}
	for i := range parts {
		from, to := len(f.Tensors)*i/parts, len(f.Tensors)*(i+1)/parts
		name := fmt.Sprintf("%s-%05d-of-%05d.safetensors", f.File, i+1, parts)
		if err := os.WriteFile(filepath.Join(dir, name), Safetensors(f.Tensors[from:to], dtype), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Safetensors is a file with these tensors.
func Safetensors(list []Matrix, dtype string) []byte {
	header := map[string]any{"__metadata__": map[string]string{"format": "pt"}}
	var data []byte
	for _, m := range list {
		from := len(data)
		for _, x := range m.Data {
			switch dtype {
			case "F32":
				data = binary.LittleEndian.AppendUint32(data, math.Float32bits(x))
			case "BF16":
				data = binary.LittleEndian.AppendUint16(data, uint16(math.Float32bits(x)>>16))
			default:
				data = binary.LittleEndian.AppendUint16(data, float16.Fromfloat32(x).Bits())
			}
		}
		header[m.Name] = map[string]any{"dtype": dtype, "shape": m.Shape, "data_offsets": []int{from, len(data)}}
	}
	raw, err := json.Marshal(header)
	if err != nil {
		panic(err) // it holds nothing that JSON has no form for
	}
	return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(raw))), raw...), data...)
}
