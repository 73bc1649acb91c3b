#!/usr/bin/env bash
# Builds the real ollama command from its Go module, once per machine, in the cache,
# and prints its file. It is a client of the tests; its engine is never run, so its
# C++ is compiled without optimization.
#
#   ollama.sh           build it if it is missing, print the file
#   ollama.sh --where   print where it is or would be; build nothing
#
# CLLM_CACHE   the cache (default: $XDG_CACHE_HOME/cllm or ~/.cache/cllm)
set -euo pipefail
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE

# Count up when this script makes something else of the same source.
readonly recipe=1

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly root
readonly cache=${CLLM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cllm}

say() { printf 'ollama: %s\n' "$*" >&2; }
die() {
	say "$@"
	exit 1
}

# field NAME of what 'go mod download' said, which is one field a line.
field() { sed -n 's/^[[:space:]]*"'"$1"'": "\(.*\)",\{0,1\}$/\1/p' <<<"$module"; }
sha256() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi; }

# The module archive lacks the single-header libraries that its C++ includes, as
# folders called vendor are left out of archives. llama.cpp's source has them.
headers() {
	git -C "$llama" archive HEAD vendor | tar -xf - -C "$1" ||
		die "the source in $llama has no vendor folder; remove $cache/src and $cache/llama, then try again"
}

build() {
	llama=$("$root/scripts/build-llama.sh" --source)
	"$root/scripts/build-llama.sh" >/dev/null
	mkdir -p "$cache/ollama"
	if command -v flock >/dev/null; then
		exec 9>"$cache/ollama/lock"
		flock -n 9 || { say "waiting for another build" && flock 9; }
		[[ ! -x $file ]] || return 0
		rm -rf "$cache"/ollama/tmp.* # of builds that were killed: none is running now
	fi
	tmp=$(mktemp -d "$cache/ollama/tmp.XXXXXX")
	trap 'rm -rf "$tmp"' EXIT
	headers "$tmp"

	say "building the ollama command $version (a few minutes, once)"
	# In its own folder Go takes its own go.sum, so every module has a checksum.
	local log=$cache/ollama/$version.log
	"$root/scripts/build-llama.sh" --exec env \
		CGO_CPPFLAGS="-I$tmp/vendor" CGO_CFLAGS="-O0 -g0" CGO_CXXFLAGS="-O0 -g0" \
		go build -C "$dir" -buildvcs=false -ldflags "-s -w -X github.com/ollama/ollama/version.Version=${version#v}" \
		-o "$tmp/ollama" . >"$log" 2>&1 9>&- || {
		grep -E -A8 'error:|^go: |FAIL' "$log" | tail -n 40 >&2
		die "the ollama command could not be built (see above, and the whole log in $log)"
	}
	"$tmp/ollama" --version >>"$log" 2>&1 </dev/null || die "the ollama command was built but does not start; the log is $log"
	mkdir -p "$(dirname "$file")"
	mv "$tmp/ollama" "$file" # the last step, so a file that exists is whole
}

cd "$root"
module=$(go mod download -json github.com/ollama/ollama) || true
version=$(field Version) dir=$(field Dir)
[[ -n $version && -d $dir ]] || die "Ollama's module could not be fetched (see above); check the network and GOPROXY"
key=$({
	echo "$version $(field Sum) $recipe"
	go version
	uname -sm
} | sha256 | cut -c1-16)
readonly file=$cache/ollama/$version-$key/ollama

[[ ${1:-} == --where || -x $file ]] || build
echo "$file"
