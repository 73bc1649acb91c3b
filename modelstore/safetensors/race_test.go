//go:build race

package safetensors

// The race detector makes all slower and larger by ten times, so the models are smaller.
const (
	experts   = 8 // how large they are, see turned
	tokenizer = 8 // by how much it is smaller
)
