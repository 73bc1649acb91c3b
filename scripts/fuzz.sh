#!/usr/bin/env bash
# Gives every fuzz test but those of the C++ binding some inputs that nobody wrote, beyond
# the seeds that 'go test' runs. The argument is how many each (3000x without one) or for how
# long; a number is safer, as Go takes a worker that is slow to stop at the end of the time
# for a failure. Without the instrumentation for coverage, which "go test -fuzz" has, these
# are a fraction of a second, and nothing is compiled twice.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
found=0
for package in $(grep -rlE --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | grep -Ev '^\./(tmp|llm/llama)(/|$)' | sort -u); do
	scripts/build-llama.sh --exec go test -c -o "$work/test" "$package"
	for name in $("$work/test" -test.list '^Fuzz'); do
		found=$((found + 1))
		if ! (cd "$package" && "$work/test" -test.run='^$' -test.fuzz="^$name\$" -test.fuzztime="${1:-3000x}" -test.fuzzcachedir="$work/cache") >"$work/log" 2>&1; then
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
