#!/usr/bin/env bash
# Gives every fuzz test but those of the C++ binding a moment with inputs that nobody
# wrote, beyond the seeds that 'go test' runs. The argument is for how long each; 1s without
# one. Without the instrumentation for coverage, which "go test -fuzz" has, a second is
# thousands of inputs instead of dozens, and nothing is compiled twice.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
found=0
for package in $(grep -rlE --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | grep -Ev '^\./(tmp|llm/llama)(/|$)' | sort -u); do
	scripts/build-llama.sh --exec go test -c -o "$work/test" "$package"
	for name in $("$work/test" -test.list '^Fuzz'); do
		found=$((found + 1))
		if ! (cd "$package" && "$work/test" -test.run='^$' -test.fuzz="^$name\$" -test.fuzztime="${1:-1s}" -test.fuzzcachedir="$work/cache") >"$work/log" 2>&1; then
			cat "$work/log"
			echo "fuzz.sh: $name in $package failed. Keep its input, which is in testdata/fuzz there, with the correction." >&2
			exit 1
		fi
	done
done
((found)) || {
	echo 'fuzz.sh: no fuzz test was found; the rule that finds them is wrong' >&2
	exit 1
}
echo "fuzz.sh: $found fuzz tests"
