#!/usr/bin/env bash
# Runs the tests of the training program.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=python.sh
source ./python.sh
exec "$python" -m unittest --quiet test_demomodel
