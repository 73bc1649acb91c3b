#!/usr/bin/env bash
# Builds the servers that cllm is measured beside, once per machine, in the cache, and
# prints the file of the one named.
#
#   peers.sh llama-server   llama.cpp's own server: the source, compiler and flags of our
#                           engine, without our patches
#   peers.sh ollama         Ollama: its Go module with its CPU libraries, optimized, by the
#                           same compiler
#
# After the name, --where prints where it is or would be, and builds nothing.
#
# CLLM_CACHE   the cache (default: $XDG_CACHE_HOME/cllm or ~/.cache/cllm)
set -euo pipefail
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE
export LC_ALL=C

# Count up when this script makes something else of the same source.
readonly llama_recipe=1 ollama_recipe=1

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
readonly cache=${CLLM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cllm}
readonly peers=$cache/peers

say() { printf 'peers: %s\n' "$*" >&2; }
die() {
	say "$@"
	exit 1
}

sha256() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi; }

# run CMD...: silent unless it fails; then the errors in the log are shown.
run() {
	"$@" >>"$log" 2>&1 9>&- && return
	grep -E -A8 'error:|Error|FAILED|^go: |^fatal: ' "$log" | tail -n 40 >&2 || tail -n 10 "$log" >&2
	die "$name could not be built (see above, and the whole log in $log)"
}

# begin makes $tmp and $log, and waits until no other build runs.
begin() {
	local tool
	for tool in git cmake ninja tar; do
		command -v "$tool" >/dev/null || die "$tool is missing; 'make setup' installs it"
	done
	"$root/scripts/build-llama.sh" >/dev/null # fetches the source
	mkdir -p "$peers" || die "the cache $peers cannot be written; set CLLM_CACHE to a folder that can"
	if command -v flock >/dev/null; then
		exec 9>"$peers/$name.lock"
		flock -n 9 || { say "waiting for another build" && flock 9; }
		[[ ! -x $file ]] || return 0
		rm -rf "$peers/tmp.$name".* # of builds that were killed: none is running now
	fi
	tmp=$(mktemp -d "$peers/tmp.$name.XXXXXX")
	trap 'rm -rf "$tmp"' EXIT
	log=$peers/$name.log
	: >"$log"
	say "building $name (some minutes, once); the log is $log"
}

# finish: the rename is the last step, so a folder that exists is whole.
finish() {
	run "$tmp/out/bin/$name" --version </dev/null
	mv "$tmp/out" "$prefix"
}

# llama_source checks llama.cpp out as it was published.
llama_source() {
	local bare
	bare=$("$root/scripts/build-llama.sh" --source)
	[[ -d $bare ]] || die "the source in $bare is missing; remove $cache/llama, then try again"
	run git -c advice.detachedHead=false clone --quiet --shared "$bare" "$tmp/llama.cpp"
}

build_llama_server() {
	begin
	[[ ! -x $file ]] || return 0
	llama_source
	local flags
	mapfile -t flags < <("$root/scripts/build-llama.sh" --cmake)
	# The later of two flags counts.
	run cmake -G Ninja -S "$tmp/llama.cpp" -B "$tmp/build" "${flags[@]}" \
		-DLLAMA_BUILD_{COMMON,TOOLS,SERVER}=ON -DLLAMA_BUILD_IS_DEV=OFF \
		-DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
	run nice ninja -C "$tmp/build" llama-server
	mkdir -p "$tmp/out/bin"
	cp "$tmp/build/bin/llama-server" "$tmp/llama.cpp/LICENSE" "$tmp/out/bin/"
	finish
}

# build_ollama builds as Ollama's own Dockerfile does: the command, and beside it a CPU
# library for each kind of CPU, of which it loads the best.
build_ollama() {
	begin
	[[ ! -x $file ]] || return 0
	llama_source # the module archive lacks the headers in vendor
	local compilers
	mapfile -t compilers < <("$root/scripts/build-llama.sh" --cmake | grep _COMPILER=)
	run cmake -G Ninja -S "$dir" -B "$tmp/build" "${compilers[@]}" -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$tmp/out" \
		-DCMAKE_DISABLE_FIND_PACKAGE_Vulkan=ON -DCMAKE_{CUDA,HIP}_COMPILER=
	run nice ninja -C "$tmp/build" ggml-cpu
	run cmake --install "$tmp/build" --component CPU --strip
	# In its own folder Go takes its own go.sum, so every module has a checksum.
	run nice "$root/scripts/build-llama.sh" --exec env \
		CGO_CPPFLAGS="-I$tmp/llama.cpp/vendor" CGO_CFLAGS="-O3 -g0" CGO_CXXFLAGS="-O3 -g0" \
		go build -C "$dir" -buildvcs=false -ldflags "-s -w -X github.com/ollama/ollama/version.Version=${version#v}" \
		-o "$tmp/out/bin/ollama" .
	finish
}

# field NAME of what 'go mod download' said, which is one field a line.
field() { sed -n 's/^[[:space:]]*"'"$1"'": "\(.*\)",\{0,1\}$/\1/p' <<<"$module"; }

main() {
	cd "$root"
	name=${1:-}
	local recipe
	case $name in
	llama-server) recipe=$llama_recipe ;;
	ollama)
		module=$(go mod download -json github.com/ollama/ollama) || true
		version=$(field Version) dir=$(field Dir)
		[[ -n $version && -d $dir ]] || die "Ollama's module could not be fetched (see above); check the network and GOPROXY"
		recipe="$ollama_recipe $version $(field Sum) $(go version)"
		;;
	*) die "usage: peers.sh llama-server | ollama [--where]" ;;
	esac
	prefix=$peers/$name-$({ "$root/scripts/build-llama.sh" --target && echo "$recipe"; } | sha256 | cut -c1-16)
	file=$prefix/bin/$name
	[[ ${2:-} == --where || -x $file ]] || "build_${name/-/_}"
	echo "$file"
}

# One line, read whole before it runs: the file may change during a long build.
main "$@"; exit
