#!/usr/bin/env bash
# The quick look before a commit. Everything is looked at, then it fails if
# anything was found.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2
cgo=(scripts/build-llama.sh --exec)
# tmp/ is anybody's scratch folder.
read -ra packages <<<"$("${cgo[@]}" go list ./... | grep -v '^cllm/tmp' | tr '\n' ' ')"
failed=()

# look NAME CMD...: silent when all is well.
look() {
	local name=$1 out
	shift
	if out=$("$@" 2>&1); then
		printf 'ok    %s\n' "$name"
	else
		printf 'FAIL  %s\n%s\n' "$name" "$out"
		failed+=("$name")
	fi
}

formatted() {
	local files
	files=$(gofmt -l . | grep -v '^tmp/')
	[[ -z $files ]] || {
		printf 'gofmt -w would change:\n%s\n' "$files"
		return 1
	}
}

shell_syntax() {
	local script
	for script in scripts/*.sh scripts/*/*.sh .ci/run; do bash -n "$script" || return 1; done
}

look gofmt formatted
look 'bash -n' shell_syntax
look sizes go run ./scripts/sizes
look vet "${cgo[@]}" go vet "${packages[@]}"
look staticcheck "${cgo[@]}" go run "$staticcheck" "${packages[@]}"
look 'go test' "${cgo[@]}" go test -short -timeout=2m "${packages[@]}"

if ((${#failed[@]})); then
	printf 'check: failed: %s\n' "${failed[*]}" >&2
	exit 1
fi
