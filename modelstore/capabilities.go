package modelstore

import (
	"log/slog"
	"slices"

	"github.com/ollama/ollama/model/parsers"
	"github.com/ollama/ollama/thinking"
	"github.com/ollama/ollama/types/model"
)

// Capabilities lists what the model can do, in Ollama's order. It is never nil.
func (m *Model) Capabilities() []model.Capability {
	list := m.ownCapabilities()
	add := func(c model.Capability, has bool) {
		if has && !slices.Contains(list, c) {
			list = append(list, c)
		}
	}
	vars, err := m.Template.Vars()
	if err != nil {
		slog.Warn("the template of a model can't be understood", "model", m.Name, "error", err)
	}
	builtin := parsers.ParserForName(m.Config.Parser)
	add(model.CapabilityTools, slices.Contains(vars, "tools") || builtin != nil && builtin.HasToolSupport())
	add(model.CapabilityInsert, slices.Contains(vars, "suffix"))
	add(model.CapabilityVision, len(m.ProjectorPaths) > 0)
	opening, closing := thinking.InferTags(m.Template.Template)
	add(model.CapabilityThinking, opening != "" && closing != "" ||
		slices.Contains([]string{"gptoss", "gpt-oss"}, m.Config.ModelFamily) ||
		builtin != nil && builtin.HasThinkingSupport())
	return list
}

// ownCapabilities are those that the weights have, whatever the template. A model
// without a GGUF file says in its config what it can do.
func (m *Model) ownCapabilities() []model.Capability {
	list := []model.Capability{}
	if m.ModelPath == "" {
		for _, c := range m.Config.Capabilities {
			list = append(list, model.Capability(c))
		}
		return list
	}
	info, err := m.Info()
	if err != nil {
		slog.Error("a model's capabilities are not known", "model", m.Name, "error", err)
		return list
	}
	if info.HasPooling {
		list = append(list, model.CapabilityEmbedding)
	} else {
		list = append(list, model.CapabilityCompletion)
	}
	if info.HasVision {
		list = append(list, model.CapabilityVision)
	}
	return list
}
