//go:build !race

package safetensors

// The sizes of the models by which memory is measured.
const (
	experts   = 28 // how large they are, see turned
	tokenizer = 1  // by how much it is smaller
)
