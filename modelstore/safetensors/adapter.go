package safetensors

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ollama/ollama/convert"
	"github.com/ollama/ollama/fs/ggml"
)

// Base is the model that an adapter is for.
type Base struct {
	Architecture string
	Heads        uint64              // attention.head_count
	KVHeads      uint64              // attention.head_count_kv; 0: as many as Heads
	Shapes       map[string][]uint64 // of its tensors, as GGUF has them: innermost first
}

// architectures are those whose parts have the names below, by whether the rows of
// their query and key projections stand in another order in GGUF.
var architectures = map[string]bool{
	"llama": true, "mistral3": true,
	"gemma": false, "gemma2": false, "gemma3": false, "olmo2": false, "phi3": false,
	"qwen2": false, "qwen2moe": false, "qwen3": false, "qwen3moe": false,
}

// parts are what adapters change: the names of Hugging Face, and GGUF's.
var parts = map[string]string{
	"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
	"self_attn.o_proj": "attn_output", "self_attn.qkv_proj": "attn_qkv",
	"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate_up_proj": "ffn_up",
}

// adapterConfig is adapter_config.json, as PEFT and as MLX write it.
type adapterConfig struct {
	Rank         float64            `json:"r"`
	Alpha        float64            `json:"lora_alpha"`
	RankScaled   bool               `json:"use_rslora"`
	DoRA         bool               `json:"use_dora"`
	Transposed   bool               `json:"fan_in_fan_out"`
	AlphaPattern map[string]float64 `json:"alpha_pattern"`
	MLX          *struct {
		Rank  float64 `json:"rank"`
		Alpha float64 `json:"alpha"`
		Scale float64 `json:"scale"`
	} `json:"lora_parameters"`
}

// alpha is what the engine divides by the rank to scale the adapter with.
func (c *adapterConfig) alpha() (float64, error) {
	alpha := c.Alpha
	switch {
	case c.DoRA:
		return 0, bad("the adapter is a DoRA, which can't be applied; only LoRA can")
	case c.Transposed:
		return 0, bad("the adapter was made for transposed weights (fan_in_fan_out), which can't be applied")
	case len(c.AlphaPattern) > 0:
		return 0, bad("the adapter has a scale of its own for some parts (alpha_pattern), which can't be applied")
	case c.MLX != nil:
		alpha = cmp.Or(c.MLX.Scale, 1) * cmp.Or(c.MLX.Alpha, c.Alpha, c.MLX.Rank)
	case c.RankScaled:
		alpha *= math.Sqrt(c.Rank)
	}
	if alpha <= 0 || math.IsInf(alpha, 0) || math.IsNaN(alpha) {
		return 0, bad("adapter_config.json gives no positive lora_alpha")
	}
	return alpha, nil
}

// Adapter writes the LoRA adapter in fsys to out, in GGUF. fsys holds
// adapter_config.json and *.safetensors files. What is wrong with them, or does not
// fit the base, is an *Error.
func Adapter(ctx context.Context, fsys fs.FS, base Base, out *os.File) (err error) {
	defer caught(&err)
	fsys = bounded{fsys}
	raw, err := fs.ReadFile(fsys, "adapter_config.json")
	if errors.Is(err, fs.ErrNotExist) {
		return bad("adapter_config.json is missing: an adapter needs it beside its safetensors files")
	} else if err != nil {
		return inputError(err)
	}
	var config adapterConfig
	if err := json.Unmarshal(raw, &config); err != nil {
		return bad("adapter_config.json can't be read: %v", err)
	}
	alpha, err := config.alpha()
	if err != nil {
		return err
	}
	if _, known := architectures[base.Architecture]; !known {
		return bad("unsupported architecture %q: convert the adapter with llama.cpp's convert_lora_to_gguf.py, then use its GGUF file", base.Architecture)
	}
	tensors, err := newSource(ctx, fsys).load(adapterName)
	if err != nil {
		return inputError(err)
	}
	list := make([]*ggml.Tensor, len(tensors))
	for i, t := range tensors {
		if list[i], err = base.fit(t); err != nil {
			return err
		}
	}
	if err := complete(list); err != nil {
		return err
	}
	return write(ctx, out, convert.KV{
		"adapter.lora.alpha":   float32(alpha),
		"adapter.type":         "lora",
		"general.architecture": base.Architecture,
		"general.file_type":    uint32(1),
		"general.type":         "adapter",
		"general.version":      "v0.2",
	}, list)
}

var adapterPart = regexp.MustCompile(`^(?:base_model\.model\.)?(?:language_model\.)?(?:model\.)?(?:layers\.(\d+)\.)?([a-z_.]+)\.(lora_[AB]\.weight|lora_[ab])$`)

// adapterName is the name of an adapter's tensor in GGUF. PEFT's end as GGUF's do, MLX's
// with a mark: they lie the other way round. What can't be applied keeps its name.
func adapterName(name string) string {
	m := adapterPart.FindStringSubmatch(name)
	if m == nil {
		return name
	}
	part, known := parts[m[2]]
	switch {
	case known && m[1] != "":
		n, err := strconv.ParseUint(m[1], 10, 16)
		if err != nil {
			return name
		}
		part = "blk." + strconv.FormatUint(n, 10) + "." + part
	case m[2] == "lm_head" && m[1] == "":
		part = "output"
	default:
		return name
	}
	suffix := strings.ToLower(strings.TrimSuffix(m[3], ".weight"))
	if !strings.HasSuffix(m[3], ".weight") {
		suffix += mlx
	}
	return part + ".weight." + suffix
}

const mlx = " (MLX)"

// fit checks a tensor against the part of the base that it changes, and lays it out
// as the engine wants it: lora_a as rank × in, lora_b as out × rank.
func (b Base) fit(t *tensor) (*ggml.Tensor, error) {
	name, transposed := strings.CutSuffix(t.name, mlx)
	of, which, ok := cutAny(name, ".lora_a", ".lora_b")
	if !ok {
		return nil, bad("the adapter's tensor %.80q can't be applied: only LoRA of attention and feed-forward projections can", t.from.name)
	}
	t.name = name
	base, there := b.Shapes[of]
	switch {
	case !there:
		return nil, bad("the adapter is not for this model, which has no tensor %s", of)
	case len(t.shape) != 2 || len(base) != 2:
		return nil, bad("the adapter's tensor %.80q is no matrix", t.from.name)
	}
	if transposed {
		t.shape = []uint64{t.shape[1], t.shape[0]}
		t.repack = transpose
	}
	want, got := base[0], t.shape[1]
	if which == ".lora_b" {
		want, got = base[1], t.shape[0]
	}
	if want != got {
		return nil, bad("the adapter is not for this model: its tensor %.80q is for %d numbers, the model's %s has %d", t.from.name, got, of, want)
	}
	if which == ".lora_b" && architectures[b.Architecture] && !transposed {
		t.order = b.order(of, got)
	} else if which == ".lora_b" && architectures[b.Architecture] {
		order := b.order(of, got)
		t.repack = func(name string, data []float32, shape []uint64) ([]float32, error) {
			data, err := transpose(name, data, shape)
			return reorder(data, order), err
		}
	}
	return &ggml.Tensor{Name: t.name, Kind: t.Kind(), Shape: t.shape, WriterTo: t}, nil
}

func cutAny(s string, suffixes ...string) (before, suffix string, ok bool) {
	for _, suffix := range suffixes {
		if before, ok := strings.CutSuffix(s, suffix); ok {
			return before, suffix, true
		}
	}
	return s, "", false
}

// order is where the rows of a projection's output come from: within each head, the
// two halves that rope turns together alternate in GGUF. nil: they stay.
func (b Base) order(of string, rows uint64) []int {
	heads := b.Heads
	switch {
	case strings.HasSuffix(of, ".attn_k.weight"):
		heads = cmp.Or(b.KVHeads, b.Heads)
	case !strings.HasSuffix(of, ".attn_q.weight"):
		return nil
	}
	if heads == 0 || rows%(2*heads) != 0 {
		return nil
	}
	half := int(rows / heads / 2)
	order := make([]int, rows)
	for i := range order {
		head, in := i/(2*half), i%(2*half)
		order[i] = head*2*half + in%2*half + in/2
	}
	return order
}

// transpose turns data, which is laid out for the shape's columns and rows.
func transpose(_ string, data []float32, shape []uint64) ([]float32, error) {
	rows, columns := int(shape[0]), int(shape[1])
	out := make([]float32, len(data))
	for r := range rows {
		for c := range columns {
			out[r*columns+c] = data[c*rows+r]
		}
	}
	return out, nil
}

// reorder takes the rows in this order. nil: as they are.
func reorder(data []float32, order []int) []float32 {
	if order == nil {
		return data
	}
	row := len(data) / len(order)
	out := make([]float32, 0, len(data))
	for _, from := range order {
		out = append(out, data[from*row:][:row]...)
	}
	return out
}

// complete checks that each matrix has its partner, of the same rank.
func complete(list []*ggml.Tensor) error {
	ranks := make(map[string]uint64) // of one of the two
	for _, t := range list {
		of, which, _ := cutAny(t.Name, ".lora_a", ".lora_b")
		rank := t.Shape[0]
		if which == ".lora_b" {
			rank = t.Shape[1]
		}
		if first, ok := ranks[of]; !ok {
			ranks[of] = rank
		} else if first != rank {
			return bad("the adapter's matrices for %s have the ranks %d and %d", of, first, rank)
		} else {
			ranks[of] = 0
		}
	}
	for _, of := range slices.Sorted(maps.Keys(ranks)) {
		if ranks[of] != 0 {
			return bad("the adapter has only one of the two matrices for %s", of)
		}
	}
	return nil
}
