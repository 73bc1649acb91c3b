#!/usr/bin/env bash
# Measures cllm beside llama-server and Ollama with the synthetic model. Flags go to
# scripts/bench; -help lists them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

file=$(scripts/synthmodel.sh)
llama_server=$(scripts/peers.sh llama-server)
ollama=$(scripts/peers.sh ollama)
scripts/build-llama.sh --exec go build -buildvcs=false -o bin/ ./cmd/cllm ./scripts/bench
exec bin/bench -model "$file" -llama-server "$llama_server" -ollama "$ollama" "$@"
