#!/usr/bin/env bash
# Measures cllm beside llama-server and Ollama with the synthetic model. Flags go to
# scripts/bench; -help lists them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/build-llama.sh --exec go build -buildvcs=false -o bin/ ./cmd/cllm ./scripts/bench
exec bin/bench "$@"
