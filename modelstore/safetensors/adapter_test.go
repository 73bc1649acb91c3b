package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ollama/ollama/fs/ggml"
	"github.com/x448/float16"

	"cllm/llm/llmtest/tinymodel"
)

// small is a base with one layer: two heads of four, one of them for keys.
var small = Base{Architecture: "llama", Heads: 2, KVHeads: 1, Shapes: map[string][]uint64{
	"blk.0.attn_q.weight": {6, 8}, "blk.0.attn_k.weight": {6, 4}, "blk.0.ffn_down.weight": {10, 6},
}}

// counting is a matrix of 0, 1, 2 and so on.
func counting(name string, rows, columns int) tinymodel.Matrix {
	m := tinymodel.Matrix{Name: name, Shape: []int{rows, columns}}
	for i := range rows * columns {
		m.Data = append(m.Data, float32(i))
	}
	return m
}

func converted(t *testing.T, config string, base Base, tensors ...tinymodel.Matrix) (*ggml.GGML, []byte, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "adapter_config.json"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "adapter_model.safetensors"), tinymodel.Safetensors(tensors, "F32"), 0o644); err != nil {
		t.Fatal(err)
	}
	b, err := result(t, func(f *os.File) error { return Adapter(t.Context(), os.DirFS(dir), base, f) })
	if err != nil {
		return nil, nil, err
	}
	g, err := ggml.Decode(bytes.NewReader(b), -1)
	if err != nil {
		t.Fatal(err)
	}
	return g, b, nil
}

// numbers returns the numbers of a tensor of 16 bits, and its shape.
func numbers(t *testing.T, g *ggml.GGML, b []byte, name string) (list []float32, shape []uint64) {
	t.Helper()
	for _, x := range g.Tensors().Items() {
		if x.Name != name {
			continue
		}
		raw := b[g.Tensors().Offset+x.Offset:][:x.Size()]
		for ; len(raw) > 0; raw = raw[2:] {
			list = append(list, float16.Frombits(binary.LittleEndian.Uint16(raw)).Float32())
		}
		return list, x.Shape
	}
	t.Fatalf("no tensor %s", name)
	return nil, nil
}

func TestTheRowsOfALlamasQueriesAreReorderedInTheMatrixThatMakesThem(t *testing.T) {
	g, b, err := converted(t, `{"r":2,"lora_alpha":4}`, small,
		counting("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", 2, 6),
		counting("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", 8, 2),
		counting("base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight", 2, 6),
		counting("base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight", 4, 2),
		counting("base_model.model.model.layers.0.mlp.down_proj.lora_A.weight", 2, 10),
		counting("base_model.model.model.layers.0.mlp.down_proj.lora_B.weight", 6, 2))
	if err != nil {
		t.Fatal(err)
	}
	if kv := g.KV(); kv.Kind() != "adapter" || kv.Architecture() != "llama" || kv["adapter.type"] != "lora" || kv["adapter.lora.alpha"] != float32(4) {
		t.Errorf("pairs %v", kv)
	}
	for name, want := range map[string]struct {
		rows  []int // each is two or more numbers that count on
		shape []uint64
	}{
		"blk.0.attn_q.weight.lora_a":   {[]int{0, 1}, []uint64{6, 2}},
		"blk.0.attn_q.weight.lora_b":   {[]int{0, 2, 1, 3, 4, 6, 5, 7}, []uint64{2, 8}},
		"blk.0.attn_k.weight.lora_b":   {[]int{0, 2, 1, 3}, []uint64{2, 4}},
		"blk.0.ffn_down.weight.lora_b": {[]int{0, 1, 2, 3, 4, 5}, []uint64{2, 6}},
	} {
		got, shape := numbers(t, g, b, name)
		var list []float32
		for _, row := range want.rows {
			for i := range int(want.shape[0]) {
				list = append(list, float32(row*int(want.shape[0])+i))
			}
		}
		if !slices.Equal(shape, want.shape) || !slices.Equal(got, list) {
			t.Errorf("%s: %v %v", name, shape, got)
		}
	}
}

func TestAnAdapterOfMLXIsTheSameOneTurned(t *testing.T) {
	turned := func(name string, rows, columns int) tinymodel.Matrix {
		m := tinymodel.Matrix{Name: name, Shape: []int{columns, rows}, Data: make([]float32, rows*columns)}
		for i := range m.Data {
			m.Data[i%columns*rows+i/columns] = float32(i)
		}
		return m
	}
	_, peft, err := converted(t, `{"r":2,"lora_alpha":40}`, small,
		counting("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", 2, 6),
		counting("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", 8, 2))
	if err != nil {
		t.Fatal(err)
	}
	_, mlx, err := converted(t, `{"lora_parameters":{"rank":2,"scale":20.0,"dropout":0}}`, small,
		turned("model.layers.0.self_attn.q_proj.lora_a", 2, 6), turned("model.layers.0.self_attn.q_proj.lora_b", 8, 2))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(peft, mlx) {
		t.Error("they differ")
	}
}

func TestAScaleByTheRootOfTheRankIsKept(t *testing.T) {
	g, _, err := converted(t, `{"r":4,"lora_alpha":8,"use_rslora":true}`, small,
		counting("model.layers.0.mlp.down_proj.lora_A.weight", 4, 10), counting("model.layers.0.mlp.down_proj.lora_B.weight", 6, 4))
	if err != nil {
		t.Fatal(err)
	}
	if got := g.KV()["adapter.lora.alpha"].(float32); math.Abs(float64(got)/4-8/math.Sqrt(4)) > 1e-6 {
		t.Errorf("alpha %g", got)
	}
}

func TestAnAdapterThatCantBeAppliedIsRefused(t *testing.T) {
	a := counting("model.layers.0.mlp.down_proj.lora_A.weight", 2, 10)
	b := counting("model.layers.0.mlp.down_proj.lora_B.weight", 6, 2)
	named := func(m tinymodel.Matrix, name string) tinymodel.Matrix { m.Name = name; return m }
	other := small
	other.Architecture = "mamba"
	const ok = `{"r":2,"lora_alpha":4}`
	for name, c := range map[string]struct {
		config  string
		base    Base
		tensors []tinymodel.Matrix
		want    string
	}{
		"no JSON":         {`{`, small, nil, "can't be read"},
		"no alpha":        {`{"r":2}`, small, nil, "no positive lora_alpha"},
		"DoRA":            {`{"r":2,"lora_alpha":4,"use_dora":true}`, small, nil, "DoRA"},
		"patterns":        {`{"r":2,"lora_alpha":4,"alpha_pattern":{"q":1}}`, small, nil, "alpha_pattern"},
		"transposed":      {`{"r":2,"lora_alpha":4,"fan_in_fan_out":true}`, small, nil, "fan_in_fan_out"},
		"architecture":    {ok, other, nil, `unsupported architecture "mamba"`},
		"nothing":         {ok, small, nil, "hold no tensors"},
		"half":            {ok, small, []tinymodel.Matrix{a}, "only one of the two matrices"},
		"another layer":   {ok, small, []tinymodel.Matrix{named(a, "model.layers.7.mlp.down_proj.lora_A.weight")}, "has no tensor blk.7.ffn_down.weight"},
		"another width":   {ok, small, []tinymodel.Matrix{counting(a.Name, 2, 11), b}, "is for 11 numbers"},
		"another height":  {ok, small, []tinymodel.Matrix{a, counting(b.Name, 7, 2)}, "is for 7 numbers"},
		"two ranks":       {ok, small, []tinymodel.Matrix{a, counting(b.Name, 6, 3)}, "have the ranks"},
		"a norm":          {ok, small, []tinymodel.Matrix{named(a, "model.norm.weight")}, "only LoRA of attention"},
		"an embedding":    {ok, small, []tinymodel.Matrix{named(a, "model.embed_tokens.lora_embedding_A")}, "only LoRA of attention"},
		"a vector":        {ok, small, []tinymodel.Matrix{{Name: a.Name, Shape: []int{20}, Data: a.Data}, b}, "is no matrix"},
		"an absurd layer": {ok, small, []tinymodel.Matrix{named(a, "model.layers.99999999999999999999.mlp.down_proj.lora_A.weight")}, "can't be applied"},
	} {
		_, _, err := converted(t, c.config, c.base, c.tensors...)
		var input *Error
		if !errors.As(err, &input) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want ... %s ...", name, err, c.want)
		}
	}
}
