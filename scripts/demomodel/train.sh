#!/usr/bin/env bash
# Trains the demo model: scripts/demomodel/train.sh [OUTPUT.gguf] [--steps N] [--seed N] [--keep-out].
# Installs what that needs and is missing, with apt. See README.md beside it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# shellcheck source=python.sh
source ./python.sh

[[ ${1:-} == *.gguf ]] || set -- ../../tmp/demo.gguf "$@"
mkdir -p "$(dirname "$1")"
exec "$python" train.py "$@"
