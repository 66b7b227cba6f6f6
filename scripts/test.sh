#!/usr/bin/env bash
# Make a virtual environment of its own, install lang1 with its development tools, then lint, type-check and test.
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${LANG1_TEST_VENV:-.venv-test}"
"${PYTHON:-python3}" -m venv --clear "$venv"
"$venv/bin/pip" install -q ".[dev]"
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
# Two processes test side by side: with as many threads each as there are cores they would wait for one another.
export OMP_NUM_THREADS=1
exec "$venv/bin/pytest" -n 2 -q "$@"
