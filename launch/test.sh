#!/usr/bin/env bash
# Every check of the project: format, lint, types, tests. The same here, on a laptop and in CI.
#   bash launch/test.sh [arguments for pytest …]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh all

echo "== ruff"
ruff format --check .
ruff check .
echo "== types"
basedpyright
echo "== tests"
exec python -m pytest --numprocesses 2 --dist worksteal "$@"
