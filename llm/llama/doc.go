// Package llama is the engine over llama.cpp: models, vocabularies, contexts,
// embedders, adapters, quantization, and grammars for JSON schemas. It is the only
// package with C in it.
//
// What holds:
//   - A Context belongs to one goroutine. Its methods count themselves in a plain
//     int, so that the race detector sees a second one although the work is in C.
//     Abort is the exception. Model, Vocab and the functions of the package may
//     be used by many goroutines.
//   - Every Model, Context, Embedder and Adapter has to be closed; closing twice is
//     harmless. OpenHandles counts the open ones. A model's memory goes when the
//     model and all that was made from it are closed, in any order.
//   - A decode is one call into C, and so is the selection of the candidates of
//     all rows that one goroutine samples.
//   - No C++ exception reaches Go. While no computation runs, a failed assertion
//     of llama.cpp becomes an error, too; inside a computation it ends the program.
//
// Without cgo the package compiles, and LoadModel says what is missing.
package llama
