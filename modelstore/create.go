package modelstore

import (
	"context"
	"errors"

	"github.com/ollama/ollama/api"
)

// CreateRequest says what to make a model of. Its fields mean what those of
// api.CreateRequest mean.
type CreateRequest struct {
	Name Name

	From  string            // name of a model in the store; or
	Files map[string]string // file name → digest of an uploaded blob, GGUF only

	// RemoteHost, with From, makes a model that runs under that name on another host.
	RemoteHost string

	Adapters map[string]string // file name → digest; one GGUF LoRA at most

	Template   string
	System     string
	Licenses   []string // see ParseLicense
	Parameters map[string]any
	Messages   []api.Message
	Renderer   string
	Parser     string
	Requires   string         // least version of Ollama, as the model's maker sees it
	Info       map[string]any // overrides of the config: capabilities, model_family, base_name, ...

	Quantization string // target type, such as "Q4_K_M"; "" leaves the weights as they are

	// Quantize writes the model in the GGUF file src to the file dst, which exists,
	// quantized to typ ("F16", "F32", "Q4_K_S", "Q4_K_M", "Q8_0"), and reports bytes
	// done of total. It is called only when Quantization asks for another type than
	// the weights have.
	Quantize func(ctx context.Context, src, dst, typ string, progress func(done, total int64)) error
}

// Progress is one line of progress, with Ollama's texts. Total and Completed are
// bytes; both are 0 when there is nothing to count.
type Progress struct {
	Status    string
	Digest    string
	Total     int64
	Completed int64
}

// ParseLicense turns the license of an api.CreateRequest (a text, a list of texts or
// nothing) into texts.
func ParseLicense(v any) ([]string, error) { return nil, errors.ErrUnsupported }

// Create makes a model, or replaces the one of that name. progress, which may be
// nil, is called from the calling goroutine, the last time with "success".
//
// Errors that match ErrBadRequest are the caller's. A *NotFoundError says that From
// is not in the store: pull it, then call again. Whatever the error, the name is as
// it was before.
func (s *Store) Create(ctx context.Context, req CreateRequest, progress func(Progress)) error {
	return errors.ErrUnsupported
}
