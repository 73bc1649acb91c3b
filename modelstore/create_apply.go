package modelstore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/format"
)

// encodeJSON encodes as Ollama does, with a line end.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	err := json.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}

// applyInfo lays the request's info over the config.
func (c *creation) applyInfo() error {
	info := c.req.Info
	if info == nil {
		return nil
	}
	if list, ok := info["capabilities"].([]any); ok {
		for _, v := range list {
			capability, _ := v.(string)
			c.config.Capabilities = append(c.config.Capabilities, capability)
		}
	}
	for key, field := range map[string]*string{
		"model_family":       &c.config.ModelFamily,
		"base_name":          &c.config.BaseName,
		"quantization_level": &c.config.FileType,
		"parameter_size":     &c.config.ModelType,
	} {
		v, ok := info[key]
		if !ok {
			continue
		}
		if *field, ok = v.(string); !ok {
			return badRequestf("info %q must be of type string", key)
		}
	}
	for key, field := range map[string]*int{
		"context_length":   &c.config.ContextLen,
		"embedding_length": &c.config.EmbedLen,
	} {
		switch v := info[key].(type) {
		case nil:
		case float64:
			*field = int(v)
		case int:
			*field = v
		default:
			return badRequestf("info %q must be of type number", key)
		}
	}
	if f, _ := info["model_family"].(string); f != "" {
		c.config.ModelFamilies = []string{f}
	}
	return nil
}

// describe fills in the config what the GGUF files say and the request does not.
func (c *creation) describe() {
	or := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	for _, l := range c.layers {
		if l.info == nil {
			continue
		}
		or(&c.config.ModelFormat, "gguf")
		or(&c.config.ModelFamily, l.info.Architecture)
		or(&c.config.ModelType, format.HumanNumber(l.info.ParameterCount))
		or(&c.config.FileType, l.info.FileType)
		c.config.ModelFamilies = append(c.config.ModelFamilies, l.info.Architecture)
	}
}

// applyTexts adds what the request gives besides weights.
func (c *creation) applyTexts() error {
	if t := c.req.Template; t != "" {
		if _, err := parseTemplate(t); err != nil {
			return fmt.Errorf("%w: %w", ErrTemplate, err)
		}
		c.drop(mediaTemplate)
		if err := c.text(mediaTemplate, []byte(t), ""); err != nil {
			return err
		}
	}
	if c.req.System != "" {
		c.drop(mediaSystem)
		if err := c.text(mediaSystem, []byte(c.req.System), ""); err != nil {
			return err
		}
	}
	for _, l := range c.req.Licenses {
		if err := c.text(mediaLicense, []byte(l), ""); err != nil {
			return err
		}
	}
	if err := c.applyParameters(); err != nil {
		return err
	}
	if len(c.req.Messages) == 0 {
		return nil
	}
	c.drop(mediaMessages)
	return c.json(mediaMessages, c.req.Messages)
}

// applyParameters lays the request's parameters over those of the layers.
func (c *creation) applyParameters() error {
	merged, err := checkParameters(c.req.Parameters)
	if err != nil {
		return err
	}
	for _, l := range c.layers {
		if l.MediaType != mediaParams {
			continue
		}
		raw := l.content
		if raw == nil {
			if raw, err = c.store.readBlob(Name{}, l.Digest, maxText); err != nil {
				return err
			}
		}
		var base map[string]any
		if err := decodeJSON(raw, &base); err != nil {
			return fmt.Errorf("the parameters of model '%s' can't be read: %w", c.req.From, err)
		}
		for k, v := range base {
			if _, given := merged[k]; !given {
				merged[k] = v
			}
		}
	}
	if len(merged) == 0 {
		return nil
	}
	c.drop(mediaParams)
	return c.json(mediaParams, merged)
}

// oldParameters were parameters once. Clients still send them; they do nothing.
var oldParameters = []string{
	"embedding_only", "f16_kv", "logits_all", "low_vram", "mirostat", "mirostat_eta", "mirostat_tau",
	"numa", "num_gqa", "penalize_newline", "rope_frequency_base", "rope_frequency_scale", "tfs_z",
	"use_mlock", "vocab_only",
}

// checkParameters returns the parameters as JSON has them. It refuses those that do
// not exist, and values of a wrong type, with Ollama's texts.
func checkParameters(p map[string]any) (map[string]any, error) {
	checked := make(map[string]any)
	if len(p) == 0 {
		return checked, nil
	}
	raw, err := json.Marshal(p)
	if err == nil {
		err = json.Unmarshal(raw, &checked)
	}
	if err != nil {
		return nil, badRequestf("the parameters can't be written as JSON: %w", err)
	}
	known := make(map[string]any)
	for _, k := range slices.Sorted(maps.Keys(checked)) {
		if slices.Contains(oldParameters, k) {
			continue
		}
		// "0" is a value of every type, so what is refused is the name.
		if _, err := api.FormatParams(map[string][]string{k: {"0"}}); err != nil {
			return nil, badRequestf("%w", err)
		}
		known[k] = checked[k]
	}
	if err := new(api.Options).FromMap(known); err != nil {
		return nil, badRequestf("%w", err)
	}
	return checked, nil
}
