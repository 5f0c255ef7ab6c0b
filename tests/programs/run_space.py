"""A Space's app.py with the packages of an environment, but for the checkout and what a Space has not.

Run without the module `site` (`python -S -E`), so that no checkout is on the path: FOLDER_OF_PACKAGES.
"""

import runpy
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

ABSENT = {
    "torch",
    "torchvision",
    "timm",
    "kornia",
    "accelerate",
    "wandb",
    "webdataset",
    "onnx",
    "shards",
    "demo",
}


class Absent(MetaPathFinder):
    """These packages are not installed."""

    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


here = Path(__file__).parent
sys.path[:] = [path for path in sys.path if path and Path(path) != here]
sys.path[:0] = [str(Path.cwd())]
sys.path.append(sys.argv[1])
sys.meta_path.insert(0, Absent())
sys.argv[:] = ["app.py"]

import flm  # noqa: E402

print(f"flm is {flm.__file__}", flush=True)
runpy.run_path("app.py", run_name="__main__")
