#!/usr/bin/env bash
# Makes the synthetic model of qwen3-0.6b's shape once, in the cache, and prints
# its file. Its name changes with its maker.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly shape=qwen3-0.6b
dir=${CLLM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cllm}/synthetic
file=$dir/$shape-$(cat scripts/synthmodel/*.go | cksum | cut -d' ' -f1).gguf

say() { printf 'synthmodel: %s\n' "$*" >&2; }
die() {
	say "$@"
	exit 1
}

if [[ ! -f $file ]]; then
	say "making the synthetic model: $shape's shape, random weights, about 390 MB (a minute or two)"
	mkdir -p "$dir"
	rm -f "$dir"/*.part
	scripts/build-llama.sh --exec go build -buildvcs=false -o bin/synthmodel ./scripts/synthmodel ||
		die "scripts/synthmodel does not build (see above)"
	scripts/build-llama.sh --exec bin/synthmodel -shape "$shape" -o "$file.part" >&2 ||
		die "the synthetic model could not be made (see above); is there room for 2 GB in $dir?"
	mv "$file.part" "$file"
fi
echo "$file"
