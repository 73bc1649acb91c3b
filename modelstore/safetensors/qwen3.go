package safetensors

import (
	"encoding/json"
	"io/fs"

	"github.com/ollama/ollama/convert"
	"github.com/ollama/ollama/fs/ggml"
)

// converter is what a conversion needs of Ollama's converters, and of ours.
type converter interface {
	KV(*convert.Tokenizer) convert.KV
	Tensors([]convert.Tensor) []*ggml.Tensor
	Replacements() []string
}

// standIns are architectures that Ollama's convert does not know, each with one that
// it knows and whose tokenizer is read alike.
var standIns = map[string]string{
	"Qwen3ForCausalLM":   "Qwen2ForCausalLM",
	"MistralForCausalLM": "LlamaForCausalLM", // in GGUF it is a llama
}

// metadata returns the converter for a model, and its tokens.
func metadata(fsys fs.FS, config map[string]any) (converter, *convert.Tokenizer, error) {
	list, _ := config["architectures"].([]any)
	var architecture string
	if len(list) > 0 {
		architecture, _ = list[0].(string)
	}
	over := overlaid{fsys, make(map[string][]byte)}
	if other, ok := standIns[architecture]; ok {
		changed, err := json.Marshal(replaced(config, "architectures", []string{other}))
		if err != nil {
			return nil, nil, err
		}
		over.files["config.json"] = changed
	}
	vocabulary, err := readVocabulary(fsys)
	if err != nil {
		return nil, nil, err
	}
	if vocabulary != nil {
		if over.files["tokenizer.json"], err = vocabulary.rest(); err != nil {
			return nil, nil, err
		}
	}
	about, tokens, err := convert.LoadModelMetadata(over)
	if err != nil {
		return nil, nil, inputError(err)
	}
	if vocabulary != nil {
		if err := vocabulary.fill(fsys, tokens, vocabularySize(config)); err != nil {
			return nil, nil, err
		}
	}
	if architecture == "Qwen3ForCausalLM" {
		raw, err := json.Marshal(config)
		q := &qwen3{}
		if err == nil {
			err = json.Unmarshal(raw, q)
		}
		if err != nil {
			return nil, nil, bad("config.json can't be read: %v", err)
		}
		return q, tokens, nil
	}
	c, ok := about.(converter)
	if !ok {
		return nil, nil, bad("unsupported architecture %q", architecture)
	}
	return c, tokens, nil
}

func replaced(m map[string]any, key string, value any) map[string]any {
	c := make(map[string]any, len(m))
	for k, v := range m {
		c[k] = v
	}
	c[key] = value
	return c
}

// qwen3 converts dense Qwen3 models as Ollama's convert would.
type qwen3 struct {
	convert.ModelParameters
	Context     uint32  `json:"max_position_embeddings"`
	Hidden      uint32  `json:"hidden_size"`
	Layers      uint32  `json:"num_hidden_layers"`
	FeedForward uint32  `json:"intermediate_size"`
	Heads       uint32  `json:"num_attention_heads"`
	KVHeads     uint32  `json:"num_key_value_heads"`
	HeadDim     uint32  `json:"head_dim"`
	RopeTheta   float32 `json:"rope_theta"`
	RopeScaling *struct {
		Type     string  `json:"type"`
		RopeType string  `json:"rope_type"`
		Factor   float32 `json:"factor"`
		Original uint32  `json:"original_max_position_embeddings"`
	} `json:"rope_scaling"`
	Epsilon float32 `json:"rms_norm_eps"`
}

func (q *qwen3) KV(t *convert.Tokenizer) convert.KV {
	kv := q.ModelParameters.KV(t)
	kv["general.architecture"] = "qwen3"
	kv["qwen3.block_count"] = q.Layers
	kv["qwen3.context_length"] = q.Context
	kv["qwen3.embedding_length"] = q.Hidden
	kv["qwen3.feed_forward_length"] = q.FeedForward
	kv["qwen3.attention.head_count"] = q.Heads
	kv["qwen3.attention.head_count_kv"] = q.KVHeads
	kv["qwen3.attention.key_length"] = q.HeadDim
	kv["qwen3.attention.value_length"] = q.HeadDim
	kv["qwen3.attention.layer_norm_rms_epsilon"] = q.Epsilon
	kv["qwen3.rope.freq_base"] = q.RopeTheta
	if s := q.RopeScaling; s != nil && (s.Type == "yarn" || s.RopeType == "yarn") {
		kv["qwen3.rope.scaling.type"] = "yarn"
		kv["qwen3.rope.scaling.factor"] = s.Factor
		kv["qwen3.rope.scaling.original_context_length"] = s.Original
	}
	return kv
}

func (*qwen3) Tensors(list []convert.Tensor) []*ggml.Tensor {
	out := make([]*ggml.Tensor, len(list))
	for i, t := range list {
		out[i] = &ggml.Tensor{Name: t.Name(), Kind: t.Kind(), Shape: t.Shape(), WriterTo: t}
	}
	return out
}

func (*qwen3) Replacements() []string {
	return []string{
		"lm_head", "output",
		"model.embed_tokens", "token_embd",
		"model.layers", "blk",
		"input_layernorm", "attn_norm",
		"self_attn.k_proj", "attn_k",
		"self_attn.k_norm", "attn_k_norm",
		"self_attn.v_proj", "attn_v",
		"self_attn.q_proj", "attn_q",
		"self_attn.q_norm", "attn_q_norm",
		"self_attn.o_proj", "attn_output",
		"mlp.down_proj", "ffn_down",
		"mlp.gate_proj", "ffn_gate",
		"mlp.up_proj", "ffn_up",
		"post_attention_layernorm", "ffn_norm",
		"model.norm", "output_norm",
	}
}
