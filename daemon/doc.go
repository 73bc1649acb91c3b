// Package daemon answers Ollama's HTTP API.
//
//	connection ─► limits ─► routes ─► a handler per endpoint
//	                                    │ JSON → checked values → prompt → tokens
//	                                    ▼
//	               residency.acquire ─► lease ─► scheduler.Submit ─► Stream
//	                    │                 └────► Embeddings.Embed      │
//	                    ▼                                              ▼
//	                 Loader (weights, engine, embedder)      reply ─► the client
//
// A reply writes an answer in the form of its API: native (NDJSON lines or one object),
// chatCompletion, completion and responseReply (OpenAI), messageReply (Anthropic). Their
// requests are made Ollama's own by its converters; nothing else knows of the forms.
//
// Who owns what:
//   - the resident models, their keep-alive timers and the loads: one goroutine
//     (residency.run); everybody else sends it events;
//   - engine, slots and batch of a model: the goroutine of its scheduler.Run;
//   - its embedder and the texts for it: the goroutine of its Embeddings.Run. A model
//     for embeddings has only this one; of others both share the weights;
//   - a request, its prompt and its output: the goroutine of its handler;
//   - names and blobs: the file system, through modelstore.
//
// What holds:
//   - a model stays in memory while a lease on it is held, whatever its keep_alive;
//   - loads come one after another, and a model is never loaded twice at a time;
//   - only fail writes an error before the first byte of an answer, and after it
//     an error is the last line or event of the stream;
//   - Stop ends every answer with a last line, then frees every engine.
//
// The package reads no environment, flag or signal, and registers nothing
// globally: several daemons may run in one process.
package daemon
