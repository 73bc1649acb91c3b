// Package safetensors turns models and LoRA adapters as Hugging Face keeps them
// (config.json, a tokenizer, *.safetensors) into GGUF files.
//
// What a model's tensors are called and how its numbers are laid out is Ollama's
// knowledge: its convert package says it, here too. Reading the files is this
// package's, because they come from outside and may be larger than the memory:
// every offset and shape is checked against the file before anything is read, tensors
// are converted in blocks, stacked experts one at a time, and a tokenizer is read
// token by token. The result is Ollama's byte for byte; a test holds that.
//
// Adapters are converted here altogether. Ollama's convert reorders the rows of the
// wrong one of LoRA's two matrices, and knows two architectures.
//
// Nothing panics on input: what Ollama's converters make of it is an *Error.
package safetensors
