#!/usr/bin/env bash
# Builds llama.cpp v0.5.0 with our patches, once per machine and configuration,
# and prints the prefix it is installed in. Everything else goes to stderr.
#
# Beside it, with a prefix of its own: llama.cpp's converter of JSON schemas to
# grammars. It belongs to the part of llama.cpp that is not built otherwise.
#
#   build-llama.sh             build if it is missing, print the prefix
#   build-llama.sh --env       build if it is missing, print the exports that cgo needs
#   build-llama.sh --exec CMD  build if it is missing, run CMD with these exports
#   build-llama.sh --test      build if it is missing, test it as it is installed
#   build-llama.sh --where     print where the prefix is or would be; build nothing
#   build-llama.sh --source    print where the fetched source is or would be
#   build-llama.sh --cmake     print compilers and flags as arguments for CMake, one a line
#   build-llama.sh --target    print what such a build depends on besides our patches
#
# LLAMA_SRC=DIR      a git checkout of llama.cpp, instead of fetching one
# CLLM_BACKEND       cpu (default), cuda, vulkan, hip or metal
# CLLM_CMAKE_FLAGS   more flags for CMake, separated by spaces
# CLLM_CC, CLLM_CXX  the compilers (default: clang-16, or a newer clang)
# CLLM_CACHE         the cache (default: $XDG_CACHE_HOME/cllm or ~/.cache/cllm)
# CLLM_SELFTEST_FAIL=1  makes the first self-test fail, to try the fallback
set -euo pipefail
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE
export LC_ALL=C

readonly version=v0.5.0
readonly tree=fd570ef54b10ec5fecb739e7e04c8ce44a6f415a
# Count up when this script puts something else into the prefix.
readonly recipe=2
readonly schema_recipe=1
# The converter adds to bounds of integers without asking whether there is room: let it wrap.
readonly schema_flags=(-std=c++17 -O2 -DNDEBUG -fwrapv)
readonly upstream=https://github.com/ggml-org/llama.cpp
readonly package=node-llama-cpp@3.22.1
# The registry's integrity hash of the package, in hexadecimal.
readonly sha512=6e5b488a9b9699cd76dc7eed30880318a4ac4ab866865418795502e3c5d38d55bb5c624988927209d95333343f2e25a83e4183a5c2f816f883a60c3ba9f4e20f

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly cache=${CLLM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cllm}
readonly backend=${CLLM_BACKEND:-cpu}

say() { printf 'llama.cpp: %s\n' "$*" >&2; }
die() {
	say "$@"
	exit 1
}

# run CMD...: silent unless it fails; then its last lines are shown.
run() {
	local before
	before=$(wc -c <"$log")
	if ! "$@" >>"$log" 2>&1; then
		tail -c "+$((before + 1))" "$log" | tail -n 30 >&2
		return 1
	fi
}

need() {
	local tool
	for tool in "$@"; do
		command -v "$tool" >/dev/null || die "$tool is missing; 'make setup' installs it"
	done
}

choose_compiler() {
	local c
	cc=${CLLM_CC:-} cxx=${CLLM_CXX:-}
	if [[ -z $cc ]]; then
		for c in clang-{16..22} clang; do
			if command -v "$c" >/dev/null; then
				cc=$c
				break
			fi
		done
	fi
	[[ -n $cc ]] || die "no clang found; 'make setup' installs clang-16, or set CLLM_CC and CLLM_CXX"
	[[ -n $cxx ]] || cxx=${cc/clang/clang++}
	need "$cc" "$cxx"
}

choose_flags() {
	flags=(
		-DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF
		-DGGML_NATIVE=ON -DGGML_OPENMP=OFF -DGGML_CCACHE=OFF -DGGML_CUDA_NCCL=OFF
		"-DLLAMA_BUILD_"{COMMON,TOOLS,TESTS,EXAMPLES,SERVER,APP}"=OFF"
	)
	case $backend in
	cpu) flags+=(-DGGML_METAL=OFF -DGGML_BLAS=OFF) ;;
	cuda | vulkan | hip | metal) flags+=("-DGGML_$(tr '[:lower:]' '[:upper:]' <<<"$backend")=ON") ;;
	*) die "CLLM_BACKEND is '$backend'; it can be cpu, cuda, vulkan, hip or metal" ;;
	esac
	local more
	read -ra more <<<"${CLLM_CMAKE_FLAGS:-}"
	flags+=(${more[@]+"${more[@]}"})
}

# What the CPU can do. A native build must never run on a CPU that can do less.
cpu_features() {
	uname -sm
	if [[ -r /proc/cpuinfo ]]; then
		grep -m1 -E '^(flags|Features)[[:space:]]*:' /proc/cpuinfo || true
		grep -m1 -E '^CPU part' /proc/cpuinfo || true
	else
		sysctl -n machdep.cpu.brand_string machdep.cpu.features machdep.cpu.leaf7_features 2>/dev/null || true
	fi
}

source_tree() {
	if [[ -z ${LLAMA_SRC:-} ]]; then
		echo "$tree"
	else
		git -C "$LLAMA_SRC" cat-file -e HEAD:include/llama.h 2>/dev/null ||
			die "LLAMA_SRC=$LLAMA_SRC is not a git checkout of llama.cpp"
		git -C "$LLAMA_SRC" rev-parse 'HEAD^{tree}'
	fi
}

# target is all that makes a build of the published source another one.
target() {
	echo "$source_id"
	"$cc" --version
	"$cxx" --version
	printf '%s\n' "$backend" "${flags[@]}"
	cpu_features
}

make_key() {
	{
		target
		cat "$here"/patches/*.patch
		echo "$recipe"
	} | sha256 | cut -c1-16
}

make_schema_key() {
	{
		echo "$source_id"
		"$cxx" --version
		uname -sm
		cat "$here"/patches/schema/*.patch "$here"/schema/*.cpp
		echo "$schema_recipe" "${schema_flags[@]}"
	} | sha256 | cut -c1-16
}

sha256() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi; }
sha512() { if command -v sha512sum >/dev/null; then sha512sum "$1"; else shasum -a 512 "$1"; fi; }

# fetch leaves a bare clone of the pristine source in $cache/src/$tree.
fetch() {
	local dest=$cache/src/$source_id
	[[ -d $dest ]] && return
	local got=$tmp/source.git
	if [[ -n ${LLAMA_SRC:-} ]]; then
		run git clone --quiet --bare "$LLAMA_SRC" "$got" || die "cannot clone LLAMA_SRC=$LLAMA_SRC (see above)"
		[[ $source_id == "$tree" ]] || say "LLAMA_SRC is not $version (tree $source_id); going on with it as it is"
	elif ! fetch_package "$got" && ! fetch_upstream "$got"; then
		die "$version could not be fetched (see above). Check the network, or set LLAMA_SRC to a git checkout of $upstream at $version"
	fi
	mkdir -p "$cache/src"
	mv "$got" "$dest"
}

fetch_package() {
	command -v npm >/dev/null || {
		say "npm is missing; trying $upstream"
		return 1
	}
	say "fetching $version (npm package $package, 36 MB)"
	(cd "$tmp" && run npm pack "$package" --loglevel=error --ignore-scripts --no-update-notifier) || {
		say "npm could not fetch $package (see above)"
		return 1
	}
	local tarball
	tarball=$(echo "$tmp"/node-llama-cpp-*.tgz)
	[[ $(sha512 "$tarball") == "$sha512 "* ]] || {
		say "$package: the archive's sha512 is wrong; it is not used"
		return 1
	}
	run tar -xzf "$tarball" -C "$tmp" package/llama/gitRelease.bundle || return 1
	clone "$tmp/package/llama/gitRelease.bundle" "$1" && check_tree "$1"
}

fetch_upstream() {
	say "fetching $version from $upstream"
	rm -rf "$1"
	clone "$upstream" "$1" --depth=1 --branch="$version" && check_tree "$1"
}

clone() {
	local from=$1 to=$2
	shift 2
	GIT_TERMINAL_PROMPT=0 run git -c advice.detachedHead=false clone --quiet --bare "$@" "$from" "$to"
}

check_tree() {
	local got
	got=$(git -C "$1" rev-parse 'HEAD^{tree}')
	[[ $got == "$tree" ]] && return
	say "the source is tree $got, but $version is $tree; it is not used"
	return 1
}

checkout() {
	run git -c advice.detachedHead=false clone --quiet --shared "$cache/src/$source_id" "$tmp/llama.cpp" ||
		die "cannot check out the source in $cache/src/$source_id; remove that folder and try again"
	local patch
	for patch in "$here"/patches/*.patch; do
		run git -C "$tmp/llama.cpp" apply "$patch" || die "$(basename "$patch") does not apply to this source; it is made for $version"
	done
}

# compile NAME [FLAG...] builds in $tmp/NAME, with a line of progress now and then.
compile() {
	local dir=$tmp/$1
	shift
	run cmake -G Ninja -S "$here/selftest" -B "$dir" -DLLAMA_DIR="$tmp/llama.cpp" \
		-DCMAKE_C_COMPILER="$cc" -DCMAKE_CXX_COMPILER="$cxx" -DCMAKE_INSTALL_LIBDIR=lib \
		"${flags[@]}" "$@" || die "CMake could not configure the build (see above)"
	say "compiling with $cc; the log is $log"
	if ! NINJA_STATUS='[%f/%t] ' ninja -C "$dir" 2>&1 | tee -a "$log" |
		awk -F'[][/]' '/^\[/ && int(4*$2/$3) > n {n = int(4*$2/$3); print "llama.cpp: " $2 " of " $3 " files"; fflush()}' >&2; then
		grep -E -A8 'error:|FAILED' "$log" | tail -n 40 >&2
		die "the build failed (see above, and the whole log in $log)"
	fi
}

# bounded CMD...: for at most two minutes, where the system can do that.
bounded() { if command -v timeout >/dev/null; then timeout -k 5 120 "$@"; else "$@"; fi; }

# selftest NAME: a real decode in a process of its own; its end is our verdict.
selftest() {
	if [[ ${CLLM_SELFTEST_FAIL:-} == 1 && $1 == build ]]; then
		say "self-test: told to fail by CLLM_SELFTEST_FAIL"
		return 1
	fi
	local status=0
	bounded "$tmp/$1/selftest" decode >>"$log" 2>&1 </dev/null || status=$?
	[[ $status == 0 ]] && return
	tail -n 3 "$log" >&2
	case $status in
	124 | 137) say "self-test: no end after 120 seconds" ;;
	*) if ((status > 128)); then say "self-test: crashed with signal $((status - 128))"; else say "self-test: failed"; fi ;;
	esac
	return 1
}

# install NAME: libraries, headers, vocabularies and llama.pc into $tmp/out.
install() {
	local out=$tmp/out libs
	run cmake --install "$tmp/$1" --prefix "$out" || die "cannot install into $out (see above)"
	rm -rf "${out:?}"/{bin,lib/cmake,lib/pkgconfig}
	mkdir -p "$out/models" "$out/lib/pkgconfig"
	cp "$tmp"/llama.cpp/models/ggml-vocab-* "$out/models/"
	cp "$tmp/llama.cpp/LICENSE" "$out/LICENSE.llama.cpp"
	libs=$(link_flags "$tmp/$1/build.ninja")
	cat >"$out/lib/pkgconfig/llama.pc" <<-EOF
		prefix=\${pcfiledir}/../..
		srcdir=\${prefix}
		Name: llama
		Description: llama.cpp $version, built for cllm
		Version: ${version#v}
		Cflags: -I\${prefix}/include
		Libs: -L\${prefix}/lib $libs
	EOF
}

# link_flags turns CMake's link line of the self-test into linker flags: our own
# archives by name, in CMake's order, and whatever the backends need.
link_flags() {
	local word line
	line=$(sed -n '/^build selftest:/,/^$/s/^  LINK_LIBRARIES = //p' "$1")
	for word in $line; do
		case $word in
		*/libllama.a | */libggml*.a) word=$(basename "$word" .a) && printf -- '-l%s ' "${word#lib}" ;;
		-Wl,-rpath*) ;;
		*) printf '%s ' "$word" ;;
		esac
	done
	if [[ $(uname -s) == Darwin ]]; then echo '-lc++'; else echo '-lstdc++ -lm -lpthread -ldl'; fi
}

build() {
	need git cmake ninja pkg-config tar
	mkdir -p "$cache/llama" || die "the cache $cache cannot be written; set CLLM_CACHE to a folder that can"
	if command -v flock >/dev/null; then
		exec 9>"$cache/llama/lock"
		flock -n 9 || { say "waiting for another build" && flock 9; }
		if [[ -f $prefix/llama.built ]]; then
			exec 9>&-
			return
		fi
		rm -rf "$cache"/llama/tmp.* # of builds that were killed: none is running now
	fi
	tmp=$(mktemp -d "$cache/llama/tmp.XXXXXX")
	trap 'rm -rf "$tmp"' EXIT
	log=$cache/llama/$key.log
	: >"$log"

	fetch
	checkout
	local made=build note=
	compile build
	if ! selftest build; then
		local remedy="the log is $log. Try another compiler with CLLM_CC and CLLM_CXX"
		[[ $(uname -m) == x86_64 ]] || die "this build cannot decode; $remedy"
		say "building again without AMX, the matrix unit of newer CPUs"
		made=build-noamx note="built without AMX, because the self-test failed with it"
		compile $made -DNO_AMX=ON
		selftest $made || die "the self-test fails without AMX too; $remedy"
	fi
	install $made
	printf '%s' "$note" >"$tmp/out/llama.built"
	# The rename is the last step, so a prefix that exists is whole.
	[[ -f $prefix/llama.built ]] || mv "$tmp/out" "$prefix"
	say "built and tested by a real decode: $prefix"
	rm -rf "$tmp"
	trap - EXIT
	exec 9>&- # or CMD would hold the lock
}

# build_schema compiles the converter and what it needs into an archive of its own:
# a change of it does not build llama.cpp again, nor the other way round.
build_schema() {
	need git tar ar
	mkdir -p "$cache/schema" "$cache/llama" || die "the cache $cache cannot be written; set CLLM_CACHE to a folder that can"
	if command -v flock >/dev/null; then
		exec 9>"$cache/schema/lock"
		flock -n 9 || { say "waiting for another build" && flock 9; }
		if [[ -f $schema_prefix/schema.built ]]; then
			exec 9>&-
			return
		fi
		rm -rf "$cache"/schema/tmp.*
	fi
	tmp=$(mktemp -d "$cache/schema/tmp.XXXXXX")
	trap 'rm -rf "$tmp"' EXIT
	log=$cache/schema/$schema_key.log
	: >"$log"

	fetch
	checkout
	local patch file source=$tmp/llama.cpp out=$tmp/out jobs=()
	for patch in "$here"/patches/schema/*.patch; do
		run git -C "$source" apply "$patch" || die "$(basename "$patch") does not apply to this source; it is made for $version"
	done
	say "compiling the converter of JSON schemas; the log is $log"
	mkdir -p "$tmp/objects" "$out/include" "$out/lib/pkgconfig"
	for file in "$source"/common/{json,json-schema,json-schema-to-grammar,trie,unicode}.cpp "$here"/schema/*.cpp; do
		run "$cxx" "${schema_flags[@]}" -I"$source"/{common,include,ggml/include,vendor} \
			-c "$file" -o "$tmp/objects/$(basename "$file" .cpp).o" &
		jobs+=($!)
	done
	for file in "${jobs[@]}"; do
		wait "$file" || die "the converter of JSON schemas does not compile (see above, and the whole log in $log)"
	done
	run ar rcs "$out/lib/libllama-schema.a" "$tmp"/objects/*.o || die "the archive cannot be written (see above)"
	cp "$source"/common/{json,json-schema,json-schema-to-grammar}.h "$out/include/"
	cat >"$out/lib/pkgconfig/llama-schema.pc" <<-EOF
		prefix=\${pcfiledir}/../..
		Name: llama-schema
		Description: llama.cpp $version's converter of JSON schemas to grammars, built for cllm
		Version: ${version#v}
		Requires: llama
		Cflags: -I\${prefix}/include
		Libs: -L\${prefix}/lib -lllama-schema
	EOF
	touch "$out/schema.built"
	[[ -f $schema_prefix/schema.built ]] || mv "$out" "$schema_prefix"
	rm -rf "$tmp"
	trap - EXIT
	exec 9>&-
}

# test_installed compiles the self-test against the prefix, as cgo does, and runs
# all of it: the decodes, and what the patches promise.
test_installed() {
	tmp=$(mktemp -d)
	trap 'rm -rf "$tmp"' EXIT
	# shellcheck disable=SC2046 # flags are words
	"$cxx" -std=c++17 -O1 -Wall -Wextra -Werror "$here"/selftest/*.cpp -o "$tmp/selftest" \
		$(PKG_CONFIG_PATH=$prefix/lib/pkgconfig pkg-config --cflags --libs llama) >&2
	"$tmp/selftest" decode
	"$tmp/selftest" embeddings
	"$tmp/selftest" products
	"$tmp/selftest" attention
	[[ $(uname -s) != Linux ]] || "$tmp/selftest" kvcache
}

main() {
	local what=${1:-}
	case $what in
	'' | --env | --exec | --test | --where | --source | --cmake | --target) ;;
	*) die "usage: build-llama.sh [--env | --exec CMD... | --test | --where | --source | --cmake | --target]" ;;
	esac
	source_id=$(source_tree)
	if [[ $what == --source ]]; then
		echo "$cache/src/$source_id"
		return
	fi
	choose_compiler
	choose_flags
	case $what in
	--cmake)
		printf '%s\n' -DCMAKE_C_COMPILER="$cc" -DCMAKE_CXX_COMPILER="$cxx" "${flags[@]}"
		return
		;;
	--target)
		target
		return
		;;
	esac
	key=$(make_key)
	prefix=$cache/llama/$key
	if [[ $what == --where ]]; then
		echo "$prefix"
		return
	fi

	schema_key=$(make_schema_key)
	schema_prefix=$cache/schema/$schema_key
	[[ -f $prefix/llama.built ]] || build
	[[ -f $schema_prefix/schema.built ]] || build_schema
	# Go's cache looks neither into archives nor at what pkg-config says. The define
	# makes it build anew, with the paths of the new archives, when a key changes.
	local define=-DCLLM_ARCHIVES=${key}_$schema_key
	[[ " ${CGO_CPPFLAGS:-} " == *" $define "* ]] || export CGO_CPPFLAGS="$define ${CGO_CPPFLAGS:-}"
	# Without its tag gin compiles a msgpack library, for a minute, that nobody uses.
	local cgo_env=(GOFLAGS="$(go env GOFLAGS) -tags=nomsgpack" CC="$cc" CXX="$cxx" CGO_CPPFLAGS="${CGO_CPPFLAGS% }" CGO_CFLAGS="-O3 -g" CGO_CXXFLAGS="-O3 -g" PKG_CONFIG_PATH="$prefix/lib/pkgconfig:$schema_prefix/lib/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}")
	case $what in
	--env)
		printf 'export'
		printf ' %q' "${cgo_env[@]}"
		echo
		;;
	--exec) exec env "${cgo_env[@]}" "${@:2}" ;;
	--test) test_installed ;;
	*)
		[[ ! -s $prefix/llama.built ]] || say "$(<"$prefix/llama.built")"
		echo "$prefix"
		;;
	esac
}

# One line, read whole before it runs: the file may change during a long build.
main "$@"; exit
