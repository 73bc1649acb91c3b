package safetensors

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/ollama/ollama/convert"
	"github.com/ollama/ollama/fs/ggml"
)

// Model writes the model in fsys to out, in GGUF. fsys holds config.json, a
// tokenizer and *.safetensors files, which can be read at offsets. What is wrong with
// them is an *Error.
func Model(ctx context.Context, fsys fs.FS, out *os.File) (err error) {
	defer caught(&err)
	fsys = bounded{fsys}
	config, err := readConfig(fsys)
	if err != nil {
		return err
	}
	converter, tokens, err := metadata(fsys, config)
	if err != nil {
		return err
	}
	tensors, err := newSource(ctx, fsys).load(strings.NewReplacer(converter.Replacements()...).Replace)
	if err != nil {
		return inputError(err)
	}
	list := make([]convert.Tensor, len(tensors))
	for i, t := range tensors {
		list[i] = t
	}
	pairs := converter.KV(tokens) // before Tensors: some converters count on that
	narrow(tensors)
	made := converter.Tensors(list)
	widen(made)
	if err := streamMXFP4(made, tensors); err != nil {
		return err
	}
	return write(ctx, out, pairs, made)
}

// write writes the file. The tensors' shapes are as in safetensors files: outermost
// dimension first.
func write(ctx context.Context, out *os.File, pairs convert.KV, tensors []*ggml.Tensor) error {
	for _, t := range tensors {
		if len(t.Shape) > maxDims {
			return bad("tensor %s has %d dimensions, the most is %d", t.Name, len(t.Shape), maxDims)
		}
		t.Shape = slices.Clone(t.Shape)
		slices.Reverse(t.Shape)
		t.WriterTo = guarded{t.WriterTo, t.Name, int64(t.Size())}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return ggml.WriteGGUF(out, pairs, tensors)
}

// guarded keeps what a converter writes within the tensor's place.
type guarded struct {
	io.WriterTo
	name string
	size int64
}

func (g guarded) WriteTo(w io.Writer) (n int64, err error) {
	defer caught(&err) // it runs in a goroutine of its own
	in := &room{w: w, left: g.size}
	_, err = g.WriterTo.WriteTo(in)
	if err == nil && in.left != 0 {
		err = bad("tensor %s is too short for its shape by %d bytes", g.name, in.left)
	}
	return g.size - in.left, err
}

// room is the place of one tensor.
type room struct {
	w    io.Writer
	left int64
}

func (p *room) Write(b []byte) (int, error) {
	if int64(len(b)) > p.left {
		return 0, bad("a tensor is longer than its shape")
	}
	n, err := p.w.Write(b)
	p.left -= int64(n)
	return n, err
}

// caught turns a panic, which is how converters refuse some inputs, into an error.
func caught(err *error) {
	if p := recover(); p != nil {
		*err = bad("the files can't be converted: %v", p)
	}
}

// inputError makes an error that the files caused an *Error. What the disk caused
// stays.
func inputError(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var known *Error
	if errors.As(err, &known) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return bad("%v", err)
}

// The most that converters are let make of a number in config.json. Some make lists
// that long.
var limits = map[string]float64{
	"vocab_size":  mostTokens,
	"hidden_size": 1 << 20, "n_embd": 1 << 20, "head_dim": 1 << 20, "intermediate_size": 1 << 22,
	"num_hidden_layers": 1 << 12, "n_layers": 1 << 12, "n_layer": 1 << 12, "num_experts": 1 << 14,
	"num_local_experts": 1 << 14, "n_routed_experts": 1 << 14, "num_attention_heads": 1 << 16,
	"num_key_value_heads": 1 << 16,
}

var notFinite = regexp.MustCompile(`([:,\[]\s*)-?(?:NaN|Infinity)`)

// readConfig reads config.json, and refuses absurd sizes before lists are made of them.
func readConfig(fsys fs.FS) (map[string]any, error) {
	raw, err := fs.ReadFile(fsys, "config.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, bad("config.json is missing: a model needs it beside its safetensors files")
	} else if err != nil {
		return nil, inputError(err)
	}
	var config map[string]any
	if err := json.Unmarshal(notFinite.ReplaceAll(raw, []byte("${1}0")), &config); err != nil {
		return nil, bad("config.json can't be read: %v", err)
	}
	return config, checkSizes(config)
}

func checkSizes(v any) error {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if err := checkSizes(e); err != nil {
				return err
			}
		}
	case map[string]any:
		for key, e := range v {
			if n, ok := e.(float64); ok {
				if most, known := limits[strings.ToLower(key)]; known && (n > most || n < 0) {
					return bad("config.json says that %s is %s, the most is %d", key, fmt.Sprint(n), int(most))
				}
			}
			if err := checkSizes(e); err != nil {
				return err
			}
		}
	}
	return nil
}
