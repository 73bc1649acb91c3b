#!/usr/bin/env bash
# Runs the real clients against a real daemon: the ollama command, and npm packages.
# The first run builds and installs them, in the cache; later ones take seconds.
#
#   run.sh                 all clients
#   run.sh openai cli ...  some of them: the names of the files *.test.mjs
#
# CLLM_CACHE         the cache (default: $XDG_CACHE_HOME/cllm or ~/.cache/cllm)
# CLLM_COMPAT_CLLM   the daemon's program (default: bin/cllm, which is built anew)
# CLLM_COMPAT_OLLAMA the ollama command (default: the one that ollama.sh builds)
# COMPATFLAGS          flags for 'node --test', for example --test-name-pattern=abort
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly cache=${CLLM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cllm}
readonly least_node=18.19

say() { printf 'compat: %s\n' "$*" >&2; }
die() {
	say "$@"
	exit 1
}
sha256() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi; }
bounded() { if command -v timeout >/dev/null; then timeout -k 20 600 "$@"; else "$@"; fi; }

check_node() {
	local got
	if ! command -v node >/dev/null || ! command -v npm >/dev/null; then "$here/../setup.sh" --npm; fi
	got=$(node --version)
	got=${got#v}
	[[ $(printf '%s\n' "$least_node" "$got" | sort -V | head -n 1) == "$least_node" ]] ||
		die "Node.js $least_node or newer is needed, but this is $got"
}

# The packages are installed by what the lock file says, which holds their hashes, into
# a folder named by it. A link beside the tests leads there.
install_packages() {
	local key packages tmp
	key=$(sha256 <"$here/package-lock.json" | cut -c1-16)
	packages=$cache/npm/$key
	if [[ ! -d $packages ]]; then
		say "installing the npm packages (once)"
		mkdir -p "$cache/npm" || die "the cache $cache cannot be written; set CLLM_CACHE to a folder that can"
		tmp=$(mktemp -d "$cache/npm/tmp.XXXXXX")
		cp "$here"/{package.json,package-lock.json,.npmrc} "$tmp"
		(cd "$tmp" && npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error) >&2 || {
			rm -rf "$tmp"
			die "npm could not install the packages (see above); check the network and try again"
		}
		if [[ -d $packages ]]; then rm -rf "$tmp"; else mv "$tmp" "$packages"; fi
	fi
	ln -sfn "$packages/node_modules" "$here/node_modules"
}

tests=()
for name in "$@"; do
	[[ -f $here/$name.test.mjs ]] || die "there is no client $name; there are: $(cd "$here" && echo *.test.mjs | sed 's/\.test\.mjs//g')"
	tests+=("$here/$name.test.mjs")
done
((${#tests[@]})) || tests=("$here"/*.test.mjs)

check_node
install_packages
cd "$here/../.."
if [[ -z ${CLLM_COMPAT_CLLM:-} ]]; then
	scripts/build-llama.sh --exec go build -buildvcs=false -o bin/cllm ./cmd/cllm
	export CLLM_COMPAT_CLLM=$PWD/bin/cllm
fi
CLLM_COMPAT_OLLAMA=${CLLM_COMPAT_OLLAMA:-$(scripts/compat/ollama.sh)}
# All that the tests write is in here, and goes even if they are killed.
tmp=$(mktemp -d "${TMPDIR:-/tmp}/cllm-compat.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
export CLLM_COMPAT_OLLAMA TMPDIR=$tmp CLLM_COMPAT_MODELS=$tmp/gguf
scripts/build-llama.sh --exec go run ./scripts/compat/tinymodels "$CLLM_COMPAT_MODELS"
export CLLM_COMPAT_REGISTRY=$tmp/registry
go build -buildvcs=false -o "$CLLM_COMPAT_REGISTRY" ./scripts/compat/registry

read -ra flags <<<"${COMPATFLAGS:-}"
# One file after the other: each starts daemons of its own. In the background, so that
# a signal to this script ends them all.
bounded node --test --test-concurrency=1 --test-reporter=spec ${flags[@]+"${flags[@]}"} "${tests[@]}" </dev/null &
nodes=$!
trap 'kill "$nodes" 2>/dev/null; wait "$nodes"; exit 130' INT TERM HUP
wait "$nodes"
