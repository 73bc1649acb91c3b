// Package llm is the vocabulary that the scheduler, the daemon and the engines
// share: tokens, positions, sequences, rows, and the interfaces Engine, Embedder,
// Vocab and Grammar. It holds no C and imports nothing of cllm.
//
// A model's text is cut into tokens by its Vocab. An Engine keeps, for each
// sequence, the KV cache of the tokens it has decoded; the token at position p
// of a sequence may be decoded only when positions 0 to p-1 are held. A Row is
// one token of one sequence that the engine shall decode next, a batch is the
// rows of one Decode call. A row that asks for logits can be sampled afterwards.
//
// An Embedder turns whole texts into vectors instead, many texts in one call.
//
// An Engine and an Embedder each belong to one goroutine. A Vocab may be used from
// many.
package llm
