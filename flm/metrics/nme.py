"""How far predicted landmarks are from the truth: of a face in torch, over a data set in numpy.

Every error is a fraction of a size of the true face, so it is the same in every frame that is a similarity of
the source picture. Only names that end in `_pct` hold percent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from flm.faces.subsets import subset_names
from flm.landmarks import LandmarkScheme
from flm.metrics.face_points import FacePoints

FaceSize = Literal["inter-ocular", "inter-pupil", "box"]
SMALLEST_FACE_SIZE_PX = 1.0
"""A face smaller than that says nothing about an error."""

WHOLE = "full"
"""The name of the subset that holds every face, as the 300-W papers have it."""

_ARRAYS = ("positions", "nme", "nme_inter_pupil", "nme_box", "nme_parts")
"""The fields of `FaceErrors` with a row a face."""


def point_errors(
    predicted: Float[Tensor, "batch points 2"], target: Float[Tensor, "batch points 2"]
) -> Float[Tensor, "batch points"]:
    """Euclidean distance of each point from the truth, px of the frame that both are given in."""
    return torch.linalg.vector_norm(predicted - target, dim=-1)


def face_size(
    target: Float[Tensor, "batch points 2"], scheme: LandmarkScheme, by: FaceSize
) -> Float[Tensor, " batch"]:
    """What the errors of each face are divided by, px.

    `inter-ocular` is the distance of the outer eye corners. `inter-pupil` is the distance of the two eyes'
    mean points, since the annotations mark no pupils. `box` is the square root of width times height of the
    tight box around the points; its sides are the distances of the outermost points, without the one pixel
    that `FaceBox` adds to cover them, so that it scales with the picture.

    Source: Sagonas et al., "300 Faces in-the-Wild", 2013 (inter-ocular); Ren et al., "Face Alignment
    at 3000 FPS", 2014 (inter-pupil); Bulat and Tzimiropoulos, "How far are we from solving the 2D & 3D Face
    Alignment problem?", 2017 (box).
    """
    match by:
        case "inter-ocular":
            right, left = (target[:, corner] for corner in scheme.outer_eye_corners)
        case "inter-pupil":
            right, left = (target[:, list(eye)].mean(dim=1) for eye in (scheme.right_eye, scheme.left_eye))
        case "box":
            return (target.amax(dim=1) - target.amin(dim=1)).prod(dim=-1).sqrt()
    return torch.linalg.vector_norm(right - left, dim=-1)


def measurable(target: Float[Tensor, "batch points 2"], scheme: LandmarkScheme) -> Bool[Tensor, " batch"]:
    """Whether every size of a face is at least one pixel, so that an error can be divided by it."""
    sizes = torch.stack([face_size(target, scheme, by) for by in get_args(FaceSize)])
    return (sizes >= SMALLEST_FACE_SIZE_PX).all(dim=0)


def nme(
    predicted: Float[Tensor, "batch points 2"],
    target: Float[Tensor, "batch points 2"],
    scheme: LandmarkScheme,
    by: FaceSize = "inter-ocular",
) -> Float[Tensor, " batch"]:
    """Normalised mean error of each face, as a fraction.

    Mean Euclidean distance over the points, divided by a size of the target.

    Args:
        predicted: landmarks in a frame with equal x and y scale, px.
        target: the truth, in the same frame.
        scheme: names the eyes.
        by: the size that counts as 1; inter-ocular as in the 300-W challenge.

    Raises:
        ValueError: that size of a target is below one pixel.

    Source: Sagonas et al., "300 Faces in-the-Wild Challenge", 2013.
    """
    return point_errors(predicted, target).mean(dim=1) / _usable_size(target, scheme, by)


def nme_parts(
    predicted: Float[Tensor, "batch points 2"],
    target: Float[Tensor, "batch points 2"],
    scheme: LandmarkScheme,
) -> Float[Tensor, "batch parts"]:
    """As `nme`, each over the points of one facial part, in the order of `scheme.parts`.

    Raises:
        ValueError: a target has an inter-ocular distance below one pixel.
    """
    errors = point_errors(predicted, target)
    means = [errors[:, list(points)].mean(dim=1) for points in scheme.parts.values()]
    return torch.stack(means, dim=1) / _usable_size(target, scheme, "inter-ocular")[:, None]


def _usable_size(
    target: Float[Tensor, "batch points 2"], scheme: LandmarkScheme, by: FaceSize
) -> Float[Tensor, " batch"]:
    size = face_size(target, scheme, by)
    if not bool((size >= SMALLEST_FACE_SIZE_PX).all()):
        raise ValueError(f"the {by} size of a target is {size.min().item():.3g} px, expected at least 1")
    return size


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceErrors:
    """The errors of single faces, as fractions, on the CPU.

    A report is made of these and not of sums, so that it does not depend on which process measured which
    face, and so that percentiles are exact. A face takes about 100 bytes, and with its points 2 kB.
    """

    positions: Int64[np.ndarray, " faces"]
    """Place of the face in its split."""
    nme: Float64[np.ndarray, " faces"]
    nme_inter_pupil: Float64[np.ndarray, " faces"]
    nme_box: Float64[np.ndarray, " faces"]
    nme_parts: Float64[np.ndarray, "faces parts"]
    """In the order of `parts`."""
    parts: tuple[str, ...]
    keys: tuple[str, ...]
    subsets: tuple[str, ...]
    points: FacePoints | None = None
    """None where only the errors of whole faces and parts are known."""

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def measure(
        cls,
        predicted: Float[Tensor, "faces points 2"],
        target: Float[Tensor, "faces points 2"],
        scheme: LandmarkScheme,
        *,
        covariance: Float[Tensor, "faces points 2 2"] | None = None,
        positions: Int64[Tensor, " faces"],
        keys: tuple[str, ...],
        subsets: tuple[str, ...],
    ) -> "FaceErrors":
        """The errors of faces, computed in float64.

        Args:
            predicted: landmarks in a frame with equal x and y scale, px.
            target: the truth, in the same frame.
            scheme: names eyes and parts.
            covariance: of the predictions, in the same frame, if the network gives one.
            positions: places of the faces in their split.
            keys: their names.
            subsets: the parts of the data set that they belong to.

        Raises:
            ValueError: a face is too small to measure.
        """
        predicted, target = predicted.double().cpu(), target.double().cpu()
        spread = None if covariance is None else covariance.double().cpu().numpy()
        return cls(
            positions=positions.cpu().numpy(),
            nme=nme(predicted, target, scheme).numpy(),
            nme_inter_pupil=nme(predicted, target, scheme, "inter-pupil").numpy(),
            nme_box=nme(predicted, target, scheme, "box").numpy(),
            nme_parts=nme_parts(predicted, target, scheme).numpy(),
            parts=tuple(scheme.parts),
            keys=keys,
            subsets=subsets,
            points=FacePoints.measure(predicted.numpy(), target.numpy(), spread, scheme),
        )

    @classmethod
    def concatenate(cls, pieces: Sequence["FaceErrors"]) -> "FaceErrors":
        """All faces of several pieces, each once, in the order of their positions.

        Raises:
            ValueError: there is no piece.
        """
        if not pieces:
            raise ValueError("there are no errors to concatenate")
        arrays = {name: np.concatenate([getattr(piece, name) for piece in pieces]) for name in _ARRAYS}
        points = [piece.points for piece in pieces if piece.points is not None]
        together = replace(
            pieces[0],
            **arrays,
            keys=tuple(key for piece in pieces for key in piece.keys),
            subsets=tuple(subset for piece in pieces for subset in piece.subsets),
            points=FacePoints.concatenate(points) if len(points) == len(pieces) else None,
        )
        _, first_of_each = np.unique(together.positions, return_index=True)
        return together.at(first_of_each)

    def at(self, rows: Int64[np.ndarray, " rows"]) -> "FaceErrors":
        """The errors of some of the faces."""
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in _ARRAYS},
            keys=tuple(self.keys[i] for i in rows),
            subsets=tuple(self.subsets[i] for i in rows),
            points=None if self.points is None else self.points.at(rows),
        )

    def by_subset(self) -> dict[str, "FaceErrors"]:
        """The faces of each subset by its name; `full` comes last and holds them all."""
        rows: dict[str, list[int]] = {}
        for row, subset in enumerate(self.subsets):
            for name in subset_names(subset):
                rows.setdefault(name, []).append(row)
        named = sorted(rows.keys() - {WHOLE})
        return {name: self.at(np.array(rows[name], dtype=np.int64)) for name in named} | {WHOLE: self}

    def nme_pct_by_part(self) -> dict[str, float]:
        """Mean error of each facial part over all faces, percent of the inter-ocular distance."""
        return dict(zip(self.parts, (100 * self.nme_parts.mean(axis=0)).tolist(), strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class NmeSummary:
    """The numbers of a table; the fields are the keys of the JSON.

    Source of area and failure rate: Yang et al., "An Empirical Study of Recent Face Alignment Methods", 2015.
    """

    num_faces: int
    nme_pct: float
    """By inter-ocular distance, as all that follows, except the next two."""
    nme_inter_pupil_pct: float
    nme_box_pct: float
    auc_08: float
    """Area under the cumulative error curve up to 8 %, divided by 8 %."""
    auc_10: float
    fr_08_pct: float
    """Share of faces with an error above 8 %."""
    fr_10_pct: float
    p50_pct: float
    """Percentile: half of the faces have at most this error."""
    p90_pct: float
    p95_pct: float
    p99_pct: float


def summarize(errors: FaceErrors) -> NmeSummary:
    """Put the errors of faces into one line of a table.

    Raises:
        ValueError: there is no face.
    """
    if len(errors) == 0:
        raise ValueError("there is no face to summarize")
    nme = errors.nme
    p50, p90, p95, p99 = 100 * np.percentile(nme, [50, 90, 95, 99])
    return NmeSummary(
        num_faces=len(errors),
        nme_pct=float(100 * nme.mean()),
        nme_inter_pupil_pct=float(100 * errors.nme_inter_pupil.mean()),
        nme_box_pct=float(100 * errors.nme_box.mean()),
        auc_08=area_under_curve(nme, 0.08),
        auc_10=area_under_curve(nme, 0.10),
        fr_08_pct=100 * failure_rate(nme, 0.08),
        fr_10_pct=100 * failure_rate(nme, 0.10),
        p50_pct=float(p50),
        p90_pct=float(p90),
        p95_pct=float(p95),
        p99_pct=float(p99),
    )


def area_under_curve(nme: Float64[np.ndarray, " faces"], up_to: float) -> float:
    """Area under the cumulative error curve from 0 to `up_to`, divided by `up_to`.

    Exact: a face of error e adds its step over the rest of the way, up_to - e, and no curve is sampled.
    """
    return float(np.clip(1 - nme / up_to, 0, None).mean())


def failure_rate(nme: Float64[np.ndarray, " faces"], above: float) -> float:
    """Share of faces whose error lies above the threshold."""
    return float((nme > above).mean())


def cumulative_error_curve(
    nme: Float64[np.ndarray, " faces"], up_to: float
) -> tuple[Float64[np.ndarray, " steps"], Float64[np.ndarray, " steps"]]:
    """The share of faces whose error is at most e, as a step function of e from 0 to `up_to`.

    Returns:
        Errors in rising order, the first 0 and the last `up_to`, and the share from each of them to the next
        (`drawstyle="steps-post"`).
    """
    ordered = np.sort(nme)
    errors = np.concatenate([[0.0], ordered[(ordered > 0) & (ordered < up_to)], [up_to]])
    return errors, np.searchsorted(ordered, errors, side="right") / max(1, nme.size)
