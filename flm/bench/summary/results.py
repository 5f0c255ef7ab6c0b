"""What was measured, in the one file that the README's tables are made of."""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flm.bench.commands import MEASURED
from flm.bench.summary.runs import Run
from flm.errors import InputError
from flm.faces.subsets import innermost_subsets
from flm.fields import from_fields, to_fields
from flm.files import write_json
from flm.metrics.nme import WHOLE
from flm.recipes import RECIPES

RESULTS = Path(__file__).with_name("results.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """A recipe's network, measured once."""

    date: str
    command: str
    faces: str
    """In words."""
    source: str
    """What the shards were made of."""
    split: str
    boxes: str = "truth"
    """What faces were cut out around: truth, annotation or detector."""
    detector: str | None = None
    """Its name."""
    second_pass: bool = False
    mirror_average: bool = False
    num_faces: int
    nme_pct: float
    """By inter-ocular distance."""
    fr_08_pct: float | None = None
    """Share of the faces with an error above 8 %; None where it was not kept, as what follows."""
    subsets: dict[str, Any] = field(default_factory=dict)
    """`num_faces` and `nme_pct` of each."""
    weights_sha256: str | None = None

    @property
    def is_plain(self) -> bool:
        """One look, at the landmarks' own boxes."""
        return self.boxes == "truth" and not self.second_pass and not self.mirror_average

    @property
    def look(self) -> str:
        """What is not plain of it, in words."""
        words = {
            f"boxes of {self.detector}": self.boxes == "detector",
            "the annotation's boxes": self.boxes == "annotation",
            "second pass": self.second_pass,
            "mirror average": self.mirror_average,
        }
        return ", ".join(word for word, wanted in words.items() if wanted)

    @property
    def about(self) -> tuple[str, ...]:
        """Another one of the same takes its place."""
        return self.source, self.split, self.look


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A recipe's network."""

    trained_on: str
    training: str
    """How long, and on what."""
    commands: tuple[str, ...] = ()
    """That make it again."""
    conditions: str = ""
    """In words."""
    note: str = ""
    """Behind its name."""
    evaluations: tuple[Evaluation, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """All of it."""

    runs: dict[str, Run]
    """By benchmark."""
    accuracy: dict[str, Trained]
    """By recipe."""

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Read the file.

        Raises:
            InputError: it is missing, damaged, or tells of a benchmark or recipe that there is not.
        """
        try:
            fields = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read; run the command in a checkout") from error
        where = str(path)
        parts: dict[str, tuple[Any, Mapping[str, Any]]] = {
            "runs": (Run, MEASURED),
            "accuracy": (Trained, RECIPES),
        }
        read: dict[str, Any] = {}
        for part, (kind, known) in parts.items():
            read[part] = {
                name: from_fields(kind, one, f"{where}: {part}: {name}")
                for name, one in fields.get(part, {}).items()
            }
            if unknown := read[part].keys() - known.keys():
                raise InputError(f"{where}: {part}: {min(unknown)} is unknown; known: {', '.join(known)}")
        return cls(**read)

    def write(self, path: Path) -> None:
        """Write the file.

        Raises:
            InputError: it cannot be written.
        """
        parts = {"runs": self.runs, "accuracy": self.accuracy}
        write_json(
            path, {part: {name: to_fields(one) for name, one in all_.items()} for part, all_ in parts.items()}
        )

    def with_runs(self, folder: Path) -> "Results":
        """With what `flm bench all` measured into a folder; its failures change nothing.

        Raises:
            InputError: it measured nothing there, or a file is damaged.
        """
        found = {name: Run.read(folder / name) for name in MEASURED}
        done = {name: run.without_machine_paths() for name, run in found.items() if run and run.is_done}
        if not done:
            raise InputError(f"{folder}: nothing was measured here; run `flm bench all --out {folder}` first")
        runs = {**self.runs, **done}
        return replace(self, runs={name: runs[name] for name in MEASURED if name in runs})

    def with_evaluations(self, files: Sequence[tuple[str, Path]]) -> "Results":
        """With reports of `flm evaluate`; those of other weights of these recipes go.

        Args:
            files: recipes, each with a report.

        Raises:
            InputError: a recipe is unknown or has no training here, or a file is no report.
        """
        accuracy = dict(self.accuracy)
        for recipe, path in files:
            if recipe not in accuracy:
                raise InputError(
                    f"--evaluations {recipe!r}: {RESULTS.name} does not say how it was trained; known: "
                    f"{', '.join(accuracy)}"
                )
            new, trained = _evaluation(path), accuracy[recipe]
            kept = [
                one
                for one in trained.evaluations
                if one.weights_sha256 == new.weights_sha256 and one.about != new.about
            ]
            accuracy[recipe] = replace(trained, evaluations=(*kept, new))
        return replace(self, accuracy=accuracy)


def _evaluation(path: Path) -> Evaluation:
    """What a file of `flm evaluate --json` says."""
    try:
        report = json.loads(path.read_bytes())
        on = report["measured_on"]
        subsets = {
            name: {key: part[key] for key in ("num_faces", "nme_pct")}
            for name, part in report["subsets"].items()
        }
        inner = innermost_subsets(name for name in subsets if name != WHOLE)
        return Evaluation(
            date=f"{datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC):%Y-%m-%d}",
            command=" ".join(["flm evaluate CHECKPOINT --data DATA", *_flags(report)]),
            faces=f"{report['num_faces']:,} faces of {on['split']}: {', '.join(inner)}".removesuffix(": "),
            source=on["source"],
            split=on["split"],
            boxes=report["boxes"],
            detector=report.get("detector"),
            second_pass=report["second_pass"],
            mirror_average=report["mirror_average"],
            num_faces=report["num_faces"],
            nme_pct=report["nme_pct"],
            fr_08_pct=report["fr_08_pct"],
            subsets=subsets,
            weights_sha256=on["weights_sha256"],
        )
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: {error}; give a file of `flm evaluate --json`") from error


def _flags(report: Mapping[str, Any]) -> list[str]:
    """Of `flm evaluate`, that are not as usual."""
    flags = {
        f"--split {report['measured_on']['split']}": True,
        f"--boxes {report['boxes']}": report["boxes"] != "truth",
        "--second-pass": report["second_pass"],
        "--mirror-average": report["mirror_average"],
    }
    return [flag for flag, wanted in flags.items() if wanted]
