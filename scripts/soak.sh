#!/usr/bin/env bash
# The long run: kills the store's process and the daemon, among many clients that
# change the same names, and looks each time whether anything is lost.
#
# Before that, simulations of the scheduler: some million steps.
#
# CLLM_KILLS   kills of each (default: 200)
# CLLM_SIM_SEEDS  simulations (default: 3500)
# CLLM_SEED    the seed that a failed run has printed (default: another one each time)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CLLM_KILLS=${CLLM_KILLS:-200} CLLM_SIM_SEEDS=${CLLM_SIM_SEEDS:-3500}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
go test -count=1 -v -timeout=1h ./scheduler -run '^TestSimulation$' | tee "$log" | grep -v -e '--- PASS' -e '=== '
simulated=$(sed -n 's/.*: \([0-9]* simulations, .*\)/\1/p' "$log")
[[ -n $simulated ]] || {
	echo "soak.sh: the simulations did not run" >&2
	exit 1
}
scripts/build-llama.sh --exec go test -count=1 -v -timeout=2h -p 1 ./modelstore ./cmd/cllm \
	-run '^(TestAProcessKilledAtAnyStepOfManyOperationsLosesNothing|TestADaemonKilledAmongManyClientsLosesNothing)$' | tee "$log"
kills=$(sed -n 's/.*: \([0-9]*\) kills, seed .*nothing lost.*/\1/p' "$log" | awk '{ n += $1 } END { print n + 0 }')
((kills == 2 * CLLM_KILLS)) || {
	echo "soak.sh: $kills kills were counted instead of $((2 * CLLM_KILLS)): a test did not run" >&2
	exit 1
}
echo "soak: $simulated; $kills kills, nothing lost"
