"""Faces to look at: the unusual ones, and some of each subset."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

import numpy as np

from flm.data.foreign import decoder_of
from flm.data.reader import Sample
from flm.data.store import ShardStore
from flm.faces.subsets import listed_subsets
from flm.page.html import figure, grid, image
from shards.inspection.faces import InspectedFace, read_samples
from shards.inspection.shape_model import Deviations, ShapeModel
from shards.inspection.tiles import LARGE_PX, SMALL_PX, large_tile, small_tile

FACES_PER_ROW = 9
"""As the style sheet has them where there is room; a third of that on a telephone."""

SHEET_ROWS = 14
"""On all sheets together, where there are fewer sheets than that."""

MOST_SHEETS = 24
MOST_ROWS = 4


def unusual_faces(
    store: ShardStore,
    faces: Sequence[InspectedFace],
    model: ShapeModel,
    deviations: Deviations,
    *,
    number: int,
    advance: Callable[[int], None],
) -> str:
    """The faces that fit worst into the shape model, the worst first.

    Args:
        store: of the shards.
        faces: all that were read.
        model: fitted to them.
        deviations: of them.
        number: how many to show.
        advance: told of each face that is drawn.
    """
    ranked = np.argsort(-deviations.distance, kind="stable")[:number].tolist()
    figures: list[str] = []
    for index, sample in zip(ranked, _samples(store, [faces[i] for i in ranked]), strict=True):
        face, part, point = faces[index], deviations.worst_part[index], int(deviations.worst_point[index])
        expected = model.expected(face.landmarks_shard, model.scheme.parts[part])
        distance = f"{deviations.distance[index]:.1f}"
        about = f"{face.key}: {distance} times the usual distance; {part} and point {point} deviate most"
        tile = large_tile(sample, model.scheme, expected_shard=expected, point=point)
        caption = (
            f"<b>{distance} &times;</b> · {escape(part)} · point {point}<br>"
            f"<code>{escape(face.key)}</code><br>{escape(face.where.split)} · {escape(face.subset)}"
        )
        figures.append(figure(image(tile, size_px=LARGE_PX, about=about), caption))
        advance(1)
    rows = "\n".join(
        f"{deviations.distance[i]:.3f}\t{faces[i].where.split}\t{faces[i].where.shard.name}\t{faces[i].key}"
        f"\t{faces[i].source_file}"
        for i in ranked
    )
    listed = f"<details><summary>As a list</summary><pre>{escape(rows)}</pre></details>"
    return grid("unusual", figures) + listed


def sheets(
    store: ShardStore,
    chosen: Mapping[tuple[str, str], Sequence[InspectedFace]],
    *,
    advance: Callable[[int], None],
) -> list[str]:
    """A sheet of faces for each subset of each split.

    Args:
        store: of the shards.
        chosen: as `faces_for_sheets` has them.
        advance: told of each face that is drawn.
    """
    drawn: list[str] = []
    for (split, subset), faces in chosen.items():
        tiles: list[str] = []
        for face, sample in zip(faces, _samples(store, faces), strict=True):
            about = f"{face.key}: a face of {split} {subset} with its landmarks"
            tiles.append(
                image(small_tile(sample, store.manifest.landmark_scheme), size_px=SMALL_PX, about=about)
            )
            advance(1)
        total = store.manifest.subsets.get(split, {}).get(subset, store.manifest.num_samples(split))
        name = f"{split} · {subset}" if subset else split
        drawn.append(f"<h3>{escape(name)} <span>{len(faces)} of {total:,}</span></h3>" + grid("faces", tiles))
    return drawn


def faces_for_sheets(
    faces: Sequence[InspectedFace], splits: Sequence[str]
) -> dict[tuple[str, str], list[InspectedFace]]:
    """Some faces of each subset, spread evenly over it, the splits in the given order."""
    groups: dict[tuple[str, str], list[InspectedFace]] = {}
    for face in faces:
        for subset in listed_subsets(face.subset) or ("",):
            groups.setdefault((face.where.split, subset), []).append(face)
    order = sorted(groups, key=lambda group: (splits.index(group[0]), group[1]))[:MOST_SHEETS]
    rows = min(MOST_ROWS, max(1, SHEET_ROWS // len(order)))
    return {group: _evenly(groups[group], rows * FACES_PER_ROW) for group in order}


def _evenly(faces: Sequence[InspectedFace], number: int) -> list[InspectedFace]:
    places = np.linspace(0, len(faces), min(number, len(faces)), endpoint=False).astype(int)
    return [faces[place] for place in places.tolist()]


def _samples(store: ShardStore, faces: Sequence[InspectedFace]) -> Iterator[Sample]:
    return read_samples(store, [face.where for face in faces], decoder_of(store.manifest))
