# llama.cpp is built once and cached outside the repository; see scripts/build-llama.sh.
SHELL := bash
CGO   := scripts/build-llama.sh --exec

# Flags for 'go test', for example TESTFLAGS=-count=1.
TESTFLAGS ?=
# Flags for scripts/bench, for example BENCHFLAGS='-servers cllm,llama-server -repeat 3'.
BENCHFLAGS ?=
# Where make bench writes BENCHOUT.json, BENCHOUT.svg and BENCHOUT.png.
BENCHOUT ?= tmp/bench/performance
# Flags for 'node --test' of the client tests, for example COMPATFLAGS=--test-name-pattern=abort.
COMPATFLAGS ?=

.PHONY: help setup llama build run test compat soak check bench clean
.NOTPARALLEL:

help: ## Show the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

setup: ## Install what is missing: clang, cmake, ninja, pkg-config, npm (with apt).
	@scripts/setup.sh

llama: setup ## Fetch and build llama.cpp, once per machine.
	@scripts/build-llama.sh >/dev/null

build: llama ## Build bin/cllm.
	$(CGO) go build -buildvcs=false -o bin/cllm ./cmd/cllm

run: build ## Start the daemon, ask it one question, serve until Ctrl-C.
	@scripts/run.sh

test: llama ## Run all tests, with the race detector where no C++ is linked.
	@scripts/test.sh $(TESTFLAGS)

compat: build ## Run the real clients: the ollama command and npm packages, against a real daemon.
	@CLLM_COMPAT_CLLM=$(CURDIR)/bin/cllm COMPATFLAGS="$(COMPATFLAGS)" scripts/compat/run.sh

soak: llama ## Kill the daemon and the store 400 times among many clients; nothing may be lost.
	@scripts/soak.sh

check: llama ## Look for mistakes in under a minute: format, vet, staticcheck, sizes, tests.
	@scripts/check.sh

bench: llama ## Measure: scheduler and engine alone, then cllm over HTTP beside llama-server and Ollama.
	$(CGO) go test -run '^$$' -bench . -benchmem ./scheduler/... ./llm/...
	scripts/bench.sh -out $(BENCHOUT) $(BENCHFLAGS)

clean: ## Remove bin/ and tmp/. llama.cpp and the synthetic model stay in the cache.
	rm -rf bin tmp scripts/compat/node_modules
