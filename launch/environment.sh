# Sourced, with the project as the current folder: gives an environment that has the project with the extras
# named in $1. An active environment that has it is used as it is; otherwise .venv is made, or completed after
# a try that was interrupted.

extras=$1

has_project() {
  python - "$extras" <<'PY' 2>/dev/null
import importlib.util, pathlib, sys
needed = {"train": ["accelerate", "kornia", "wandb", "webdataset"], "demo,dlib": ["av", "gradio", "dlib"]}
needed["all"] = [*needed["train"], *needed["demo,dlib"], "onnxscript", "basedpyright", "importlinter", "pytest", "xdist"]
flm = importlib.util.find_spec("flm")
here = flm and pathlib.Path(flm.origin).parents[1] == pathlib.Path.cwd()
sys.exit(not (here and all(importlib.util.find_spec(name) for name in needed[sys.argv[1]])))
PY
}

if [[ -z ${VIRTUAL_ENV:-} ]] || ! has_project; then
  python=${PYTHON:-python3}
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: $python is older than Python 3.11; set PYTHON to a newer one" >&2
    exit 2
  fi
  # What was installed is written down last, so that an interrupted install is done again.
  wanted=$(pwd; cat pyproject.toml)
  if [[ "$(cat .venv/.has-all 2>/dev/null)" != "$wanted" && "$(cat ".venv/.has-$extras" 2>/dev/null)" != "$wanted" ]]; then
    [[ -x .venv/bin/pip ]] || { rm -rf .venv; "$python" -m venv .venv; }
    echo "== installing into .venv (once; up to 3 GB)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
    printf '%s' "$wanted" > ".venv/.has-$extras"
  fi
  source .venv/bin/activate
fi

# Nothing here waits for a network.
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} GRADIO_ANALYTICS_ENABLED=${GRADIO_ANALYTICS_ENABLED:-False}
