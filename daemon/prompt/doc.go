// Package prompt turns conversations into the text that a model was trained on,
// and the text that the model writes back into an answer.
//
// A Style is how one model writes: a Go template, or one of Ollama's built-in
// renderers and parsers. It is read-only and shared by all requests of the model.
// What belongs to one request, an Output above all, is used by one goroutine.
//
// Templates and parsers change what they are given and may panic on what they did
// not expect: this package hands them copies and turns a panic into an error of
// the request.
package prompt
