"""How the faces of a data set are turned, how large they are, and how much of their crops is empty."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from flm.data.manifest import Manifest
from flm.faces.pose import HeadPose
from flm.page.html import card, number, percent
from shards.inspection.charts import histogram, linear_axis, logarithmic_axis
from shards.inspection.faces import InspectedFace

UNBROKEN = "\N{NO-BREAK SPACE}"
POSE_BIN_DEG = 5.0
SHARE_BIN_PCT = 5.0
BINS_PER_OCTAVE = 8
DISTANCE_BIN = 0.2
MOST_DISTANCE = 4.0
UNUSUAL_DISTANCE = 2.0
OUTER_SHARE = 0.002
"""Of the faces on either side. They count in the outermost bins, so that one face does not set the axis."""

Groups = Mapping[str, Float[np.ndarray, " faces"]]


def compared_splits(faces: Sequence[InspectedFace]) -> list[str]:
    """What is drawn as bars, and what as an outline: train and test, or what else there is."""
    present = list(dict.fromkeys(face.where.split for face in faces))
    wanted = [split for split in ("train", "test") if split in present]
    return [*wanted, *(split for split in present if split not in wanted)][:2]


def charts(
    faces: Sequence[InspectedFace], manifest: Manifest, *, distance: Float[np.ndarray, " faces"] | None
) -> list[str]:
    """Cards with a histogram each.

    Args:
        faces: those that are measured.
        manifest: of their shards.
        distance: of each from the usual shape, where there is a model of it.
    """
    cards: list[str] = []
    if any(face.pose for face in faces):
        cards += [
            _pose_card(faces, "Yaw", lambda pose: pose.yaw_deg, "yaw, ° (+: looks to the picture's right)"),
            _pose_card(faces, "Pitch", lambda pose: pose.pitch_deg, "pitch, ° (+: looks down)"),
            _pose_card(faces, "Roll", lambda pose: pose.roll_deg, "roll, ° (+: tilted clockwise)"),
        ]
    cards += [_size_card(faces, manifest), _outside_card(faces)]
    return cards if distance is None else [*cards, _distance_card(faces, distance)]


def _grouped(faces: Sequence[InspectedFace], value: Callable[[InspectedFace], float | None]) -> Groups:
    numbers = {
        split: [value(face) for face in faces if face.where.split == split]
        for split in compared_splits(faces)
    }
    return {
        split: np.array([known for known in values if known is not None], dtype=np.float64)
        for split, values in numbers.items()
    }


def _pose_card(
    faces: Sequence[InspectedFace], heading: str, angle: Callable[[HeadPose], float], label: str
) -> str:
    groups = _grouped(faces, lambda face: angle(face.pose) if face.pose else None)
    reach = max(float(np.abs(_range(groups)).max()), POSE_BIN_DEG)
    axis = linear_axis(label, -reach, reach, POSE_BIN_DEG)
    return card(heading, histogram(groups, axis, about=_summary(groups, "°")), _summary(groups, "°"))


def _size_card(faces: Sequence[InspectedFace], manifest: Manifest) -> str:
    groups = _grouped(faces, lambda face: face.face_size_px)
    low, high = _range(groups)
    axis = logarithmic_axis("longer side of the landmarks' box, px", low, high, BINS_PER_OCTAVE)
    stored_px = manifest.crop_size_px / (1 + 2 * manifest.crop_margin)
    enlarged = float(np.mean([face.face_size_px < stored_px for face in faces]))
    caption = (
        f"{_summary(groups, UNBROKEN + 'px')}. Stored crops show it at {stored_px:.0f} px: "
        f"{percent(enlarged, 1)} of the faces are enlarged there."
    )
    mark = (stored_px, f"{stored_px:.0f} px") if axis.edges[0] < stored_px < axis.edges[-1] else None
    return card("Face size in its picture", histogram(groups, axis, about=caption, mark=mark), caption)


def _outside_card(faces: Sequence[InspectedFace]) -> str:
    groups = _grouped(faces, lambda face: 100 * face.outside_share)
    axis = linear_axis(
        "black border, % of the crop", 0.0, max(SHARE_BIN_PCT, _range(groups)[1]), SHARE_BIN_PCT
    )
    any_share = float(np.mean([face.outside_share > 0.01 for face in faces]))
    caption = f"{percent(any_share)} of the crops have one. {_summary(groups, UNBROKEN + '%')}."
    return card("Crop outside the picture", histogram(groups, axis, about=caption), caption)


def _distance_card(faces: Sequence[InspectedFace], distance: Float[np.ndarray, " faces"]) -> str:
    splits = np.array([face.where.split for face in faces])
    groups = {split: distance[splits == split] for split in compared_splits(faces)}
    axis = linear_axis("distance, 1 is usual", 0.0, MOST_DISTANCE, DISTANCE_BIN)
    caption = (
        f"{percent(float(np.mean(distance > UNUSUAL_DISTANCE)), 1)} of the faces are more than "
        f"{UNUSUAL_DISTANCE:g} times as far as usual, the farthest {number(float(distance.max()), 2)} times."
    )
    return card("Distance from the usual shape", histogram(groups, axis, about=caption), caption)


def _range(groups: Groups) -> tuple[float, float]:
    everything = np.concatenate([*groups.values()])
    low, high = np.quantile(everything, [OUTER_SHARE, 1 - OUTER_SHARE])
    return float(low), float(high)


def _summary(groups: Groups, unit: str) -> str:
    told: list[str] = []
    for split, values in groups.items():
        if len(values):
            low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
            low, middle, high = (number(float(round(value))) for value in (low, middle, high))
            told.append(f"{split}: median {middle}{unit}, {percent(0.9)} within {low} to {high}{unit}")
    return "; ".join(told)
