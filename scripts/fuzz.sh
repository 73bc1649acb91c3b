#!/usr/bin/env bash
# Gives every fuzz test but those of the C++ binding a moment with inputs that nobody
# wrote, beyond the seeds that 'go test' runs. The argument is for how long each; 1s without one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

found=0
while IFS=: read -r file name; do
	package=$(dirname "$file")
	[[ $package != ./llm/llama && $package != ./tmp/* ]] || continue
	found=$((found + 1))
	scripts/build-llama.sh --exec go test -run '^$' -fuzz "^$name\$" -fuzztime "${1:-1s}" "$package" >/dev/null || {
		echo "fuzz.sh: $name in $package failed; the input is in $package/testdata/fuzz/$name. Again:" >&2
		scripts/build-llama.sh --exec go test -run "^$name\$" "$package" >&2
		exit 1
	}
done < <(grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9]+' . | sed 's/func //' | sort)
((found)) || {
	echo 'fuzz.sh: no fuzz test was found; the rule that finds them is wrong' >&2
	exit 1
}
