package modelstore

import "github.com/ollama/ollama/types/model"

// Name is a model's name: host, namespace, model and tag. It is comparable.
type Name = model.Name

// ParseName reads [host/][namespace/]model[:tag] and fills in Ollama's defaults.
// A Name that it returns is valid. The error is an *InvalidNameError.
func ParseName(s string) (Name, error) {
	n := model.ParseName(s)
	if !n.IsValid() {
		return Name{}, &InvalidNameError{Text: s}
	}
	return n, nil
}
