package modelstore

import (
	"errors"
	"time"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/template"
	"github.com/ollama/ollama/types/model"
)

// Model is a name with all that serving it needs. It is shared by everyone who gets
// the name: neither the Model nor anything it refers to may be changed. (Executing
// the template changes the messages that it is given: give it copies.)
type Model struct {
	Name       Name
	Digest     Digest // of the manifest file
	Size       int64  // bytes of all layers and the config
	ModifiedAt time.Time
	Config     model.ConfigV2

	ModelPath      string // the GGUF file; "" for a model without one
	ModelBlob      Digest // of that file; models that share it can share an engine
	ProjectorPaths []string
	AdapterPaths   []string
	ParentModel    string // what the model was made from, as Ollama notes it

	Template   *template.Template // never nil; Ollama's default when the model has none
	System     string
	Parameters map[string]any // as encoding/json decodes them
	Messages   []api.Message
	Licenses   []string

	store *Store
}

// Info is what a GGUF file says about itself. It is shared and must not be changed.
type Info struct {
	Architecture    string // general.architecture
	Kind            string // general.type: "model", "adapter", "projector", or "" when not given
	ContextLength   int    // tokens the model was trained for; 0 when not given
	EmbeddingLength int    // width of the model; 0 when not given
	BlockCount      int    // layers; 0 when not given
	ParameterCount  uint64 // elements of all tensors
	FileType        string // quantization, such as "Q4_K_M"; "unknown" when not given or unknown to Ollama
	ChatTemplate    string // Jinja, as the model's maker wrote it; "" when not given
	HasPooling      bool   // <architecture>.pooling_type is there: an embedding model
	HasVision       bool   // <architecture>.vision.block_count is there
	Tensors         []Tensor
}

// Tensor describes one tensor of a GGUF file.
type Tensor struct {
	Name  string
	Type  string // such as "F32"
	Shape []uint64
}

// Info reads the header of the model's GGUF file, once per blob. The error is
// ErrNoWeights, a *MissingBlobError, or says what is wrong with the file.
func (m *Model) Info() (*Info, error) { return nil, errors.ErrUnsupported }

// ModelInfo returns the key-value pairs of the GGUF file for /api/show: without
// general.name and the chat template, with general.parameter_count. Arrays are nil
// unless verbose. The map is the caller's.
func (m *Model) ModelInfo(verbose bool) (map[string]any, error) { return nil, errors.ErrUnsupported }

// ProjectorInfo is ModelInfo of the first projector, with general.name; nil for a
// model without one.
func (m *Model) ProjectorInfo(verbose bool) (map[string]any, error) {
	return nil, errors.ErrUnsupported
}

// Capabilities lists what the model can do, in Ollama's order. It is never nil.
func (m *Model) Capabilities() []model.Capability { return nil }

// With returns a copy of the model with another system text, where that is not
// empty, and with options laid over its parameters.
func (m *Model) With(system string, options map[string]any) *Model { return nil }

// Modelfile returns the text from which the model can be made again, as
// "ollama show --modelfile" prints it; parameters are sorted by name.
func (m *Model) Modelfile() string { return "" }

// ParametersText returns the parameters as "ollama show --parameters" prints them,
// sorted by name, without a line end after the last.
func (m *Model) ParametersText() string { return "" }
