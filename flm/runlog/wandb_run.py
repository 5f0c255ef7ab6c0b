"""A run in Weights & Biases: one whole curve however often it was stopped, and what it was made from.

Going on offline. W&B writes a folder for each start. Where a start repeats steps that came after the
checkpoint, `wandb sync` of both folders puts them behind the old ones under wrong numbers; with one id but
without `resume`, the later folder replaces the earlier. So a start that goes on writes the run again from
log.jsonl into its own folder, with the pictures of the earlier ones, and those are put aside: to send the
newest folder is to send the whole run, also over parts that were sent before.

Going on online. W&B resumes the run itself and takes no step twice. Steps that it has from before a crash are
not sent again, since going on repeats them bit for bit; those that it lacks, because they were made offline,
are. (Its rewinding of a run is no way: a beta, and not on every server.)
"""

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import wandb
from jaxtyping import UInt8
from wandb.errors import CommError

from flm.checkpoint import CHECKPOINTS, CONFIG_NAME, MODEL_NAME, STATE_NAME, read_json
from flm.data.manifest import Manifest
from flm.errors import first_line
from flm.files import write_json

TRACKER_NAME = "tracker.json"
ASIDE = "superseded"
"""Folder inside W&B's of what lies deeper than `wandb sync` looks, by the run's id."""

_PICTURE_NAME = re.compile(r"(?P<name>.+)_(?P<step>\d+)_[0-9a-f]+\.png")
"""W&B's file of a picture, below `files/media/images`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedLine:
    """Numbers of a step, under the names that trackers show."""

    step: int
    time_s: float
    """Since 1970."""
    values: Mapping[str, float]


class WandbRun:
    """The run as the first process logs it.

    Args:
        run: the run's folder.
        project: in W&B.
        name: of the run in W&B.
        lines: what was logged before this start and holds, by increasing step.
        goes_on: whether this start goes on with the run, so that its curves go on too.
        facts: shown as its configuration.
        many_machines: whether other machines log beside it, in one group with it.
        say: takes a line for the terminal.
    """

    def __init__(
        self,
        run: Path,
        *,
        project: str,
        name: str,
        lines: Sequence[LoggedLine],
        goes_on: bool,
        facts: Mapping[str, Any],
        many_machines: bool,
        say: Callable[[str], None],
    ) -> None:
        self.folder = run
        self.id = _run_id(run, goes_on=goes_on)
        self._many_machines = many_machines
        self._say = say
        group: dict[str, Any] = {"group": self.id, "job_type": "rank-0"} if many_machines else {}
        earlier = _put_aside(run, self.id)
        self.run = _start(run, say, project=project, name=name, id=self.id, **group)
        self.run.config.update(dict(facts), allow_val_change=True)
        self._write_again(lines, earlier)

    @property
    def offline(self) -> bool:
        """Whether it is only written to disk."""
        return self.run.offline

    @property
    def url(self) -> str | None:
        """Its page; None while it is only written to disk."""
        return None if self.offline or self.run.disabled else self.run.url

    def log(self, values: Mapping[str, Any], step: int, *, time_s: float) -> None:
        """Numbers or pictures of a step, at a time in seconds since 1970."""
        # What W&B has of a run that it resumed stays.
        if step >= self.run.starting_step:
            self.run.log({**values, "_timestamp": time_s}, step=step)

    def log_pictures(
        self, pictures: Mapping[str, UInt8[np.ndarray, "height width 3"]], step: int, *, time_s: float
    ) -> None:
        """Pictures by name, RGB."""
        self.log({name: wandb.Image(picture) for name, picture in pictures.items()}, step, time_s=time_s)

    def use_data(self, data: str, manifest: Manifest) -> None:
        """Tell which shards the run learns from: an input artifact, the same one wherever the shards lie."""
        name = _artifact_name(Path(data).name)
        counts = {split: manifest.num_samples(split) for split in manifest.splits}
        contents = {"manifest_hash": manifest.content_hash(), "scheme": manifest.scheme, "faces": counts}
        artifact = wandb.Artifact(name, type="dataset", metadata={**contents, "data": data})
        with tempfile.TemporaryDirectory() as folder:
            write_json(Path(folder) / "dataset.json", contents)
            artifact.add_file(str(Path(folder) / "dataset.json"))
        self._use(artifact)

    def use_checkpoint(self, checkpoint: Path) -> None:
        """Tell which checkpoint the run began from: the artifact that its own run logged, if it is whole."""
        if (checkpoint / MODEL_NAME).is_file() and (checkpoint / STATE_NAME).is_file():
            self._use(_checkpoint_artifact(checkpoint))

    def log_checkpoints(self) -> None:
        """The best checkpoint and the last, as versions of one artifact.

        Only at the end, since each is a full copy.
        """
        aliases: dict[Path, list[str]] = {}
        for which in ("best", "last"):
            if (self.folder / which / MODEL_NAME).is_file():
                aliases.setdefault((self.folder / which).resolve(), []).append(which)
        for checkpoint, names in aliases.items():
            artifact = _checkpoint_artifact(checkpoint)
            self.run.log_artifact(artifact, aliases=[*names, f"step-{artifact.metadata['step']}"])

    def finish(self, *, exit_code: int) -> None:
        """Close it, and say how an offline run is sent; W&B shows by the code whether it failed."""
        folder = self.folder / "wandb" if self._many_machines else Path(self.run.dir).parent
        self.run.finish(exit_code=exit_code)
        if self.offline:
            self._say(f"W&B ran offline; to send the run: wandb login && wandb sync {folder}")

    def _use(self, artifact: wandb.Artifact) -> None:
        if not self.run.disabled:
            # `use_artifact` does this too, but refuses offline and waits for the server online.
            self.run._log_artifact(artifact, aliases=[], is_user_created=True, use_after_commit=True)

    def _write_again(self, lines: Sequence[LoggedLine], earlier: Sequence[Path]) -> None:
        pictures = _pictures_of(earlier)
        for line in lines:
            self.log(line.values, line.step, time_s=line.time_s)
            images = {name: wandb.Image(str(path)) for name, path in pictures.pop(line.step, {}).items()}
            self.log(images, line.step, time_s=line.time_s)
        for folder in earlier:
            # They are in the new folder now, and would pile up.
            shutil.rmtree(folder / "files" / "media", ignore_errors=True)


def log_this_machine(run: Path, *, project: str, name: str, group: str, rank: int) -> Any:
    """Log the load of a machine that is not the first's, as a run of its own in the group of the training.

    W&B's shared mode would make it one run, but gives up the numbers of the steps, and needs the server.

    Args:
        run: the run's folder; it may be another disk than the first machine's.
        project: in W&B.
        name: of the first machine's run.
        group: the id of the first machine's run.
        rank: of the process that logs.

    Returns:
        W&B's run, to be finished.
    """
    run.mkdir(parents=True, exist_ok=True)
    return _start(
        run,
        print,
        # Nothing of it has a step, so that W&B can put its starts together.
        resume_offline="allow",
        project=project,
        name=f"{name} rank {rank}",
        id=f"{group}-rank-{rank}",
        group=group,
        job_type=f"rank-{rank}",
        settings=wandb.Settings(console="off", disable_git=True),
    )


def _start(
    run: Path,
    say: Callable[[str], None],
    *,
    resume_offline: Literal["allow"] | None = None,
    **options: Any,
) -> Any:
    options |= {"dir": str(run), "reinit": "create_new"}
    # What `wandb offline` wrote counts too.
    mode = os.environ.get("WANDB_MODE") or wandb.setup().settings.mode
    if mode not in ("offline", "dryrun") and (mode == "disabled" or _has_login()):
        try:
            return wandb.init(mode=cast(Any, mode), resume="allow", **options)
        except CommError as error:
            say(f"W&B cannot be reached, so the run is logged offline: {first_line(error)}")
    return wandb.init(mode="offline", resume=resume_offline, **options)


def _has_login() -> bool:
    return wandb.login(prompt=False, verify=False)


def _run_id(run: Path, *, goes_on: bool) -> str:
    """One id for all starts of a run; a sweep's agent gives its own."""
    path = run / TRACKER_NAME
    if not goes_on or not path.exists():
        write_json(path, {"wandb_id": os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)})
    return read_json(path)["wandb_id"]


def _put_aside(run: Path, identity: str) -> list[Path]:
    """Put folders of earlier offline starts where `wandb sync` does not look; gives those of all starts."""
    # W&B numbers those that begin in one second.
    own = re.compile(rf"(?P<offline>offline-)?run-[\d_]+-{re.escape(identity)}(-\d+)?")
    aside = run / "wandb" / ASIDE / identity
    aside.mkdir(parents=True, exist_ok=True)
    online = []
    for folder in sorted((run / "wandb").iterdir()):
        if match := own.fullmatch(folder.name):
            if match["offline"]:
                folder.rename(aside / f"{len(list(aside.iterdir())) + 1:03d}-{folder.name}")
            else:
                online.append(folder)
    return [*online, *sorted(aside.iterdir())]


def _pictures_of(folders: Sequence[Path]) -> dict[int, dict[str, Path]]:
    """The newest file of each picture, by step and name."""
    found: dict[int, dict[str, Path]] = {}
    for folder in folders:
        images = folder / "files" / "media" / "images"
        for path in sorted(images.rglob("*.png")):
            if match := _PICTURE_NAME.fullmatch(path.relative_to(images).as_posix()):
                found.setdefault(int(match["step"]), {})[match["name"]] = path
    return found


def _checkpoint_artifact(checkpoint: Path) -> wandb.Artifact:
    """What is needed to predict, under the name of the run's folder."""
    state = read_json(checkpoint / STATE_NAME)
    run = checkpoint.parents[1] if checkpoint.parent.name == CHECKPOINTS else checkpoint
    artifact = wandb.Artifact(_artifact_name(run.name), type="model", metadata=state)
    for file in (CONFIG_NAME, MODEL_NAME, STATE_NAME):
        artifact.add_file(str(checkpoint / file))
    return artifact


def _artifact_name(text: str) -> str:
    """As W&B takes it."""
    return re.sub(r"[^\w.-]", "-", text, flags=re.ASCII) or "data"
