#!/usr/bin/env bash
# Starts the daemon, has it answer one question, and serves until Ctrl-C.
# OLLAMA_HOST and the other OLLAMA_ variables mean what they mean to Ollama.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly cllm=bin/cllm
readonly model=demo
readonly question='What is cllm?'
readonly address=${OLLAMA_HOST:-127.0.0.1:11434}

say() { printf 'run: %s\n' "$*" >&2; }
die() {
	say "$@"
	exit 1
}

answers() { "$cllm" list >/dev/null 2>&1 </dev/null; }

start_daemon() {
	! answers || die "something already answers on $address, an Ollama or another cllm; stop it, or choose another port: OLLAMA_HOST=127.0.0.1:11435 make run"
	# In a process group of its own, so that Ctrl-C reaches it once, through us.
	set -m
	"$cllm" serve </dev/null &
	daemon=$!
	set +m
	trap 'kill -INT "$daemon" 2>/dev/null || true; stopping=1' INT
	trap 'kill -TERM "$daemon" 2>/dev/null || true; stopping=1' TERM HUP
	trap 'kill -TERM "$daemon" 2>/dev/null && wait "$daemon"' EXIT

	local i
	for ((i = 0; i < 150; i++)); do
		alive || finish "the daemon did not start (see above)"
		! answers || return 0
		sleep 0.2
	done
	die "the daemon did not answer on $address within 30 seconds (see above)"
}

alive() { kill -0 "$daemon" 2>/dev/null; }

# finish [SENTENCE] waits for the daemon and ends with its status.
finish() {
	local status=0
	while alive; do wait "$daemon" || true; done
	wait "$daemon" || status=$?
	trap - EXIT
	[[ $# == 0 || -n ${stopping:-} ]] || say "$@"
	exit "$status"
}

# step CMD...: runs CMD for as long as the daemon is not told to stop.
step() {
	local pid status=0
	"$@" &
	pid=$!
	wait "$pid" || status=$?
	if [[ -n ${stopping:-} ]]; then
		kill "$pid" 2>/dev/null || true
		finish
	fi
	return "$status"
}

ask() {
	local answer=
	"$cllm" show "$model" >/dev/null 2>&1 </dev/null || {
		say "there is no model '$model' to ask (see above, or unset CLLM_NODEMO); serving all the same"
		return 0
	}
	say "asking $model: $question"
	answer=$(mktemp)
	if step timeout 300 "$cllm" run "$model" "$question" </dev/null >"$answer"; then
		cat "$answer"
	else
		say "the question was not answered (see above); serving all the same"
	fi
	rm -f "$answer"
}

start_daemon
ask
say "serving on $address; Ctrl-C stops it"
finish
