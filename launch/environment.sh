# Sourced, with the project as the current folder: makes .venv where it is missing, installs the project with
# the extras named in $1, and activates it. Safe to repeat, and after a try that was interrupted.

extras=$1
python=${PYTHON:-python3}
"$python" - <<'PY' || { echo "error: $python is older than Python 3.11; set PYTHON to a newer one" >&2; exit 2; }
import sys
sys.exit(sys.version_info < (3, 11))
PY

# The stamp names what was installed; it is written last, so an interrupted install is done again.
stamp=.venv/.installed-$extras
wanted=$(cat pyproject.toml; pwd)
if [[ ! -x .venv/bin/python || "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]]; then
  if [[ ! -x .venv/bin/pip ]]; then
    rm -rf .venv
    "$python" -m venv .venv
  fi
  echo "== installing into .venv (once; downloads up to 3 GB)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
  printf '%s\n' "$wanted" > "$stamp"
fi
source .venv/bin/activate

# Nothing here waits for a network.
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} GRADIO_ANALYTICS_ENABLED=${GRADIO_ANALYTICS_ENABLED:-False}
