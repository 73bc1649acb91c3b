package modelstore

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"cllm/modelstore/gguf"
	"cllm/modelstore/safetensors"
)

// addAdapter adds the uploaded adapter.
func (c *creation) addAdapter() error {
	switch kind, err := c.kindOf(c.req.Adapters); {
	case err != nil:
		return err
	case kind == safetensorsFiles:
		return c.addSafetensorsAdapter()
	case kind == unknownFiles:
		return ErrUnknownType
	case len(c.req.Adapters) > 1:
		return ErrOnlyOneAdapter
	}
	for _, digest := range c.req.Adapters {
		l, split, err := c.uploaded(digest)
		switch {
		case err != nil:
			return err
		case split:
			return badRequestf("the adapter's GGUF file is one part of several: merge them into one file with llama.cpp's llama-gguf-split --merge first")
		case l.MediaType != mediaAdapter:
			return badRequestf("the adapter's GGUF file is no adapter (general.type is %q)", l.info.Kind)
		}
		if base, ok := c.weights(); ok {
			if err := fits(l.info, base.info); err != nil {
				return err
			}
		}
		c.layers = append(c.layers, l)
	}
	return nil
}

// weights is the layer of the model that an adapter is for.
func (c *creation) weights() (*newLayer, bool) {
	i := slices.IndexFunc(c.layers, func(l *newLayer) bool { return l.MediaType == mediaModel && l.info != nil })
	if i < 0 {
		return nil, false
	}
	return c.layers[i], true
}

// fits refuses an adapter that the engine would refuse when the model is loaded.
func fits(adapter, base *Info) error {
	if adapter.Architecture != base.Architecture {
		return badRequestf("the adapter is for a model of the architecture %q, the model's is %q", adapter.Architecture, base.Architecture)
	}
	shapes := shapesOf(base)
	for _, t := range adapter.Tensors {
		name, side := strings.TrimSuffix(t.Name, ".lora_a"), 0
		if n, ok := strings.CutSuffix(t.Name, ".lora_b"); ok {
			name, side = n, 1
		}
		if name == t.Name || name == "token_embd.weight" {
			continue // the engine knows these better
		}
		of, there := shapes[name]
		switch {
		case !there:
			return badRequestf("the adapter is not for this model, which has no tensor %.80s", name)
		case len(of) < 2 || len(t.Shape) < 2 || of[side] != t.Shape[side]:
			return badRequestf("the adapter is not for this model: its tensor %.80s has the shape %v, the model's has %v", t.Name, t.Shape, of)
		}
	}
	return nil
}

func shapesOf(i *Info) map[string][]uint64 {
	shapes := make(map[string][]uint64, len(i.Tensors))
	for _, t := range i.Tensors {
		shapes[t.Name] = t.Shape
	}
	return shapes
}

// addSafetensorsAdapter converts a LoRA as Hugging Face keeps them.
func (c *creation) addSafetensorsAdapter() error {
	for f := range c.req.Adapters {
		if !fs.ValidPath(f) {
			return fmt.Errorf("%w: %s", ErrFilePath, f)
		}
	}
	weights, ok := c.weights()
	if !ok {
		return badRequestf("no base model was found")
	}
	h, err := c.store.header(Name{}, weights.Digest)
	if err != nil {
		return err
	}
	head := gguf.Header{Pairs: h.pairs}
	base := safetensors.Base{Architecture: head.Architecture(), Shapes: shapesOf(h.info)}
	base.Heads, _ = head.OwnUint("attention.head_count")
	base.KVHeads, _ = head.OwnUint("attention.head_count_kv")
	files, err := c.uploads(c.req.Adapters)
	if err != nil {
		return err
	}
	c.progress(Progress{Status: "converting adapter"})
	l, err := c.newFile("converting the adapter", mediaAdapter, func(f *os.File) error {
		return safetensors.Adapter(c.ctx, files, base, f)
	})
	if err != nil {
		return err
	}
	c.layers = append(c.layers, l)
	return nil
}
