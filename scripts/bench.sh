#!/usr/bin/env bash
# Measures the daemon over HTTP with the synthetic model. Flags go to scripts/bench.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

file=$(scripts/synthmodel.sh)
scripts/build-llama.sh --exec go build -buildvcs=false -o bin/bench ./scripts/bench
exec bin/bench -model "$file" "$@"
