// Package bench measures servers of language models over HTTP: Ollama's API or
// OpenAI's completions, as cllm, Ollama and llama-server speak them.
//
// Run asks each server for the same work, load by load, and returns a Report,
// which writes itself as a table, as JSON and as a plot. A load is closed, so
// many clients that each send their next request when the last is answered, or
// open, requests that arrive at a rate as a Poisson process whether or not others
// are still in progress.
//
// What holds:
//   - A request is sent once. One that is lost is a failure, with its reason.
//   - Tokens are those that the server counts. A reply whose count cannot be right
//     is a failure, too; see reply.check.
//   - Only whole replies count in rates and latencies. A load that was interrupted
//     is reported with what was complete.
//   - Each request of a load has a prompt of its own, and all servers get the same
//     words.
//   - Memory is bounded: a sample for each request, and at most gapLimit gaps.
//
// The figures are those of vLLM's `bench serve`:
//
//	TTFT  from sending a request to the first text
//	E2EL  from sending a request to the end of its reply
//	TPOT  (E2EL − TTFT) / (output tokens − 1), of each reply
//	ITL   the gap between two chunks with text, over all replies
//	queue the time that a reply spent neither loading, nor on its prompt, nor on
//	      its tokens, as the server counts them: Ollama's API only, as
//	      total_duration − load_duration − prompt_eval_duration − eval_duration
//
// The bench shares the machine with the server, so a chunk is not decoded: only
// whether it holds text, and whether it is one of the last lines, is looked for.
package bench
