//go:build !cgo

package llama

import (
	"context"
	"strings"
	"testing"
)

func TestWithoutCgoTheErrorNamesTheRemedy(t *testing.T) {
	_, err := LoadModel(context.Background(), "model.gguf", ModelOptions{})
	if err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=1") {
		t.Errorf("error %v", err)
	}
}
