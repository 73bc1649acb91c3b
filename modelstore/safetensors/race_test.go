//go:build race

package safetensors

// The race detector takes several times the memory of the program that it watches.
const raceDetector = true
