package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ollama/ollama/convert"
	"github.com/ollama/ollama/fs/ggml"

	"cllm/llm/llmtest/tinymodel"
)

// raw is a tensor of a safetensors file. Its numbers are random ones, or zeros in a
// hole of the file.
type raw struct {
	name, dtype string
	shape       []int
}

func (r raw) size() int {
	n := int(width(r.dtype))
	for _, d := range r.shape {
		n *= d
	}
	return n
}

// turned are models of which a converter turns tensors around. n is how large.
var turned = map[string]struct {
	config  map[string]any
	tensors func(n int) []raw
}{
	"Llama4ForConditionalGeneration": {
		map[string]any{"text_config": map[string]any{"num_attention_heads": 2, "hidden_size": 6, "rope_theta": 1e4}},
		func(n int) []raw {
			return []raw{
				{"language_model.model.layers.0.feed_forward.experts.gate_up_proj", "BF16", []int{4 * n, 6 * n, 10 * n}},
				{"language_model.model.layers.0.feed_forward.experts.down_proj", "BF16", []int{4 * n, 5 * n, 6 * n}},
			}
		},
	},
	"Qwen3VLMoeForConditionalGeneration": {
		map[string]any{"num_experts": 4},
		func(n int) []raw {
			return []raw{
				{"model.layers.0.mlp.experts.gate_up_proj", "F16", []int{4 * n, 6 * n, 10 * n}},
				{"model.layers.0.mlp.experts.down_proj", "F16", []int{4 * n, 5 * n, 6 * n}},
			}
		},
	},
	"Qwen3_5MoeForConditionalGeneration": {
		map[string]any{
			"num_hidden_layers": 2, "num_attention_heads": 1, "num_key_value_heads": 1, "full_attention_interval": 2,
			"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
			"linear_conv_kernel_dim": 4, "rope_theta": 1e4, "partial_rotary_factor": 0.5, "hidden_size": 16,
		},
		func(n int) []raw {
			return []raw{
				{"model.language_model.layers.0.linear_attn.in_proj_qkv.weight", "BF16", []int{64, 16 * n * n * n}},
				{"model.language_model.layers.0.linear_attn.in_proj_z.weight", "BF16", []int{32, 16 * n * n * n}},
				{"model.language_model.layers.0.linear_attn.out_proj.weight", "BF16", []int{16, 32}},
				{"model.language_model.layers.0.mlp.experts.gate_up_proj", "BF16", []int{4 * n, 10 * n, 6 * n}},
			}
		},
	},
	"Qwen3NextForCausalLM": {
		map[string]any{
			"num_hidden_layers": 2, "num_attention_heads": 1, "num_key_value_heads": 1, "full_attention_interval": 2,
			"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
			"linear_conv_kernel_dim": 4, "rope_theta": 1e4, "partial_rotary_factor": 0.5, "hidden_size": 16,
		},
		func(n int) []raw {
			return []raw{{"model.layers.0.linear_attn.in_proj_qkvz.weight", "BF16", []int{96, 16 * n * n * n}}}
		},
	},
	"GptOssForCausalLM": {
		map[string]any{"max_position_embeddings": 16, "num_local_experts": 4},
		func(n int) []raw {
			return []raw{
				{"model.layers.0.mlp.experts.gate_up_proj_blocks", "U8", []int{4 * n, 10 * n, 3 * n, 16}},
				{"model.layers.0.mlp.experts.gate_up_proj_scales", "U8", []int{4 * n, 10 * n, 3 * n}},
				{"model.layers.0.mlp.experts.down_proj_blocks", "U8", []int{4 * n, 6 * n, 5 * n, 16}},
				{"model.layers.0.mlp.experts.down_proj_scales", "U8", []int{4 * n, 6 * n, 5 * n}},
				{"model.layers.0.mlp.experts.gate_up_proj_bias", "BF16", []int{4, 10}},
			}
		},
	},
}

// writeModel writes a model of these tensors, without its numbers when sparse is true.
func writeModel(t *testing.T, architecture string, config map[string]any, tensors []raw, sparse bool) string {
	t.Helper()
	dir := t.TempDir()
	f := tinymodel.RandomFolder(architecture, llama(), 1)
	f.Tensors = nil
	for k, v := range config {
		f.Files["config.json"].(map[string]any)[k] = v
	}
	f.Files["preprocessor_config.json"] = map[string]any{}
	if err := f.Write(dir, "F16", 1); err != nil {
		t.Fatal(err)
	}
	header, size := map[string]any{}, 0
	for _, r := range tensors {
		header[r.name] = map[string]any{"dtype": r.dtype, "shape": r.shape, "data_offsets": []int{size, size + r.size()}}
		size += r.size()
	}
	text, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	content := append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...)
	head := len(content)
	if !sparse {
		rng := rand.New(rand.NewPCG(1, 2))
		for range size {
			content = append(content, byte(rng.Uint32()&0xbf)) // no NaN, infinity or odd small ones
		}
	}
	path := filepath.Join(dir, "model.safetensors")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(head+size)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// tensorsOf returns what the tensors of a GGUF file hold, by name and shape.
func tensorsOf(t *testing.T, b []byte) map[string]string {
	t.Helper()
	g, err := ggml.Decode(bytes.NewReader(b), -1)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	for _, x := range g.Tensors().Items() {
		at := g.Tensors().Offset + x.Offset
		shape, _ := json.Marshal(x.Shape)
		found[x.Name+" "+x.Type()+" "+string(shape)] = string(b[at:][:x.Size()])
	}
	return found
}

func TestTurnedTensorsAreWhatOllamaMakesOfTheWhole(t *testing.T) {
	for architecture, m := range turned {
		dir := writeModel(t, architecture, m.config, m.tensors(1), false)
		got, err := result(t, func(f *os.File) error { return Model(t.Context(), os.DirFS(dir), f) })
		if err != nil {
			t.Errorf("%s: %v", architecture, err)
			continue
		}
		want, err := result(t, func(f *os.File) error { return convert.ConvertModel(os.DirFS(dir), f) })
		if err != nil {
			t.Fatal(err)
		}
		if len(tensorsOf(t, want)) < len(m.tensors(1))-2 {
			t.Errorf("%s: only %d tensors", architecture, len(tensorsOf(t, want)))
		}
		if diff := cmp.Diff(tensorsOf(t, want), tensorsOf(t, got)); diff != "" {
			t.Errorf("%s: Ollama makes others:\n%s", architecture, diff)
		}
	}
}

func TestATensorThatIsTooLargeToTurnIsRefused(t *testing.T) {
	m := turned["Llama4ForConditionalGeneration"]
	dir := writeModel(t, "Llama4ForConditionalGeneration", m.config, []raw{
		{"language_model.model.layers.0.feed_forward.experts.down_proj", "BF16", []int{1, 1 << 14, 1<<14 + 2}},
	}, true)
	_, err := result(t, func(f *os.File) error { return Model(t.Context(), os.DirFS(dir), f) })
	if err == nil || !strings.Contains(err.Error(), "turned around in memory") {
		t.Errorf("error %v", err)
	}
}
