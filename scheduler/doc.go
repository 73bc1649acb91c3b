// Package scheduler shares one engine between many requests by continuous
// batching: requests join and leave between two steps of the engine.
//
// Run owns everything: the engine, the slots, the batch and the waiting
// requests. Nothing else touches them, so there are no locks on them. Other
// goroutines may only call Submit, Stats, Failed and Close, and read streams.
//
// A slot is one sequence of the engine: its id, the tokens that the engine holds
// for it, and the request that uses it, if any. A request's tokens are its prompt
// and what was generated; the last of them is not in the KV cache yet. A slot
// whose cache lacks more than that last token is in prefill, otherwise it decodes.
//
// What holds between two steps (check.go is the same as code):
//   - a slot's cached tokens are exactly the tokens that the engine holds for it;
//   - an active slot's cached tokens are a proper prefix of its request's tokens;
//   - no request's tokens exceed its context;
//   - every request that Submit accepted gets exactly one final event.
//
// Embeddings, from embeddings.go on, does the same for texts that shall become
// vectors: its own Run owns an embedder and the requests for it. A call of the
// embedder takes texts of all requests in turn, as deal says; a text that is too
// long for a call is computed in parts beside the others, where the model allows it.
// Both kinds of requests share a Queue, and of one model the weights.
package scheduler
