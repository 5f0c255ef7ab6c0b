#!/usr/bin/env bash
# Every check of the project: format, lint, types, tests. The same here, on a laptop and in CI.
#   bash launch/test.sh [--browser] [arguments for pytest …]
#   bash launch/test.sh --lint      only what takes seconds, such as before a commit
# --browser installs Chromium where it is missing (Debian's apt-get), and the tests of the page fail without it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh all

if [[ ${1:-} == --browser ]]; then
  shift
  if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null; then
    as_root=$([[ $(id -u) == 0 ]] || echo sudo)
    $as_root apt-get update --quiet && $as_root apt-get install --quiet --yes chromium
  fi
  export FLM_BROWSER_TESTS=required
fi

echo "== ruff"
ruff format --check .
ruff check .
echo "== types"
basedpyright
[[ ${1:-} != --lint ]] || exit 0
echo "== tests"
exec python -m pytest --numprocesses 2 --dist worksteal "$@"
