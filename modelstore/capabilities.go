package modelstore

import (
	"log/slog"
	"slices"

	"github.com/ollama/ollama/model/parsers"
	"github.com/ollama/ollama/thinking"
	"github.com/ollama/ollama/types/model"
)

// Capabilities lists what the model can do, in Ollama's order. It is never nil, and
// worked out once. It must not be changed.
func (m *Model) Capabilities() []model.Capability {
	if m.derived == nil {
		list, _ := m.capabilities()
		return list
	}
	m.derived.mu.Lock()
	defer m.derived.mu.Unlock()
	if m.derived.abilities != nil {
		return m.derived.abilities
	}
	list, err := m.capabilities()
	if err != nil {
		slog.Error("a model's capabilities are not known", "model", m.Name, "error", err)
		return list
	}
	m.derived.abilities = list
	return list
}

// capabilities returns what is known of them with an error.
func (m *Model) capabilities() ([]model.Capability, error) {
	list, unknown := m.ownCapabilities()
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
	return list, unknown
}

// ownCapabilities are those that the weights have, whatever the template. A model
// without a GGUF file says in its config what it can do.
func (m *Model) ownCapabilities() ([]model.Capability, error) {
	list := []model.Capability{}
	if m.ModelPath == "" {
		for _, c := range m.Config.Capabilities {
			list = append(list, model.Capability(c))
		}
		return list, nil
	}
	info, err := m.Info()
	if err != nil {
		return list, err
	}
	if info.HasPooling {
		list = append(list, model.CapabilityEmbedding)
	} else {
		list = append(list, model.CapabilityCompletion)
	}
	if info.HasVision {
		list = append(list, model.CapabilityVision)
	}
	return list, nil
}
