#!/usr/bin/env bash
# Runs every test: vet, llama.cpp as it is installed, the demo model's training, and all
# Go packages, with the race detector where the test links no C++. Arguments go to 'go test'.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { printf '== %s\n' "$*"; }

# tmp/ is anybody's scratch folder.
packages=$(scripts/build-llama.sh --exec go list ./... | grep -v '^cllm/tmp' | tr '\n' ' ')
read -ra packages <<<"$packages"

step 'go vet'
scripts/build-llama.sh --exec go vet "${packages[@]}"
scripts/build-llama.sh --exec go vet -tags chainbench ./llm/llama

step 'llama.cpp: decodes, and the sparse KV cache'
scripts/build-llama.sh --test

step "the demo model's training"
scripts/demomodel/test.sh

# The test binaries and what they link.
tests=$(scripts/build-llama.sh --exec go list -test -f '{{if .ForTest}}{{else if eq .Name "main"}}{{.ImportPath}} {{join .Deps " "}}{{end}}' "${packages[@]}" | grep -E '^[^ ]+\.test ')
read -ra with_cxx <<<"$(awk '/ cllm\/llm\/llama( |$)/ {sub(/\.test$/, "", $1); printf "%s ", $1}' <<<"$tests")"
read -ra pure <<<"$(awk '!/ cllm\/llm\/llama( |$)/ {sub(/\.test$/, "", $1); printf "%s ", $1}' <<<"$tests")"
((${#pure[@]})) || {
	echo 'test.sh: no package without C++ was found; the rule that finds them is wrong' >&2
	exit 1
}

status=0
step "go test -race: ${#pure[@]} packages without C++"
scripts/build-llama.sh --exec go test -race "$@" "${pure[@]}" || status=1
step 'go test: what a conversion takes of memory, without the race detector'
go test "$@" -run LittleMemory ./modelstore/safetensors || status=1
if ((${#with_cxx[@]})); then
	step "go test: ${#with_cxx[@]} packages with llama.cpp"
	scripts/build-llama.sh --exec go test "$@" "${with_cxx[@]}" || status=1
fi
step 'go test: the benchmarks of make bench, a round each'
scripts/build-llama.sh --exec go test -run '^$' -bench . -benchtime 1x ./scheduler/... ./llm/... || status=1
step 'fuzz: some thousand inputs for each decoder of outside input'
scripts/fuzz.sh || status=1
exit $status
