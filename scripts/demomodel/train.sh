#!/usr/bin/env bash
# Trains the demo model: scripts/demomodel/train.sh [OUTPUT.gguf] [--steps N] [--seed N] [--keep-out].
# Installs what that needs and is missing, with apt. See README.md beside it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

[[ ${1:-} == *.gguf ]] || set -- "$here/../../tmp/demo.gguf" "$@"
mkdir -p "$(dirname "$1")"
output=$(realpath "$1")
shift

cd "$here"
# shellcheck source=python.sh
source ./python.sh
exec "$python" train.py "$output" "$@"
