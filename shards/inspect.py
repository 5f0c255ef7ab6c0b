"""A data set on one page: what is in it, how its faces are, and which of them look wrong."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from flm.data.manifest import Manifest
from flm.data.store import ShardStore
from flm.errors import InputError
from flm.files import write_whole
from flm.page.html import card, grid, page, percent, section
from shards.inspection.counts import counts_table, header, num_faces, split_names
from shards.inspection.faces import InspectedFace, places_of, read_faces
from shards.inspection.galleries import faces_for_sheets, sheets, unusual_faces
from shards.inspection.measures import charts, compared_splits
from shards.inspection.options import InspectOptions
from shards.inspection.shape_figures import mean_shape, modes_of_variation
from shards.inspection.shape_model import MIN_FACES, Deviations, ShapeModel
from shards.progress import progress

NUM_MODES = 4

ABOUT_MEAN = (
    "Faces and their mirror images, aligned by position, size and roll. The modes are the principal axes of "
    "what is left: the mean face in grey, two standard deviations to either side in colour."
)
ABOUT_UNUSUAL = (
    "The likeliest mistakes among the annotations. Each point and each facial part is compared with where "
    "the rest of its face puts it, by a linear model of the shapes of this data set. The distance is that of "
    "the worst point and the worst part; 1 is the usual face. "
    '<b class="truth">Green</b> is the annotation, <b class="expected">magenta</b> where the rest of the '
    'face puts the worst part, <b class="suspect">yellow</b> the worst point. A grimace is unusual, too.'
)
ABOUT_POSE = (
    "<p><b>Yaw, pitch and roll</b> are those of a mean head brought onto the landmarks by "
    "perspective-n-point, without the sides of the jaw, from a camera 12 inter-ocular distances away. "
    "Yaw is positive when the face looks to the picture's right, pitch when it looks down, roll when it is "
    "tilted clockwise; 0 is the mean head seen from the front, so a level look may read as some degrees of "
    "pitch. On rendered heads of known pose it is off by about 2° in yaw and in pitch and by "
    "0.6° in roll.</p>"
)
ABOUT_MEASURES = (
    "<p><b>Face size</b> is the longer side of the box around the landmarks, in px of the source picture.</p>"
    "<p><b>Outside the picture</b> are the whole rows and columns at the edges of a stored crop that are "
    "black, since the size of the source picture is not stored. A picture that is itself black at its edge "
    "counts as well.</p>"
)


def inspect(store: ShardStore, out: Path, options: InspectOptions) -> None:
    """Write the page of a data set, whole or not at all.

    Args:
        store: of its shards.
        out: the file; what it needs is all in it.
        options: equal shards and options give the same bytes.

    Raises:
        InputError: the shards have no face, one of them cannot be read, or `out` cannot be
            written.
    """
    manifest = store.manifest
    places = places_of(manifest, options.max_faces)
    if not places:
        raise InputError(f"{store.place}: the shards have no face; convert a source that has some")
    faces = read_faces(store, places, processes=options.processes)
    fitted = _fit(faces, manifest)
    sections = [
        header(manifest, store.place),
        section("Counts", "Faces of each subset and split.", counts_table(manifest)),
        _measures(faces, manifest, fitted),
        *(_shapes(store, faces, fitted, options) if fitted else [_too_few(faces)]),
        _faces(store, faces),
        f"<footer>{ABOUT_POSE if faces[0].pose else ''}{ABOUT_MEASURES}</footer>",
    ]
    title = f"{num_faces(manifest):,} faces: {manifest.source}"
    write_whole(out, page(title=title, sections=sections).encode())


def _fit(faces: Sequence[InspectedFace], manifest: Manifest) -> tuple[ShapeModel, Deviations] | None:
    if len(faces) < MIN_FACES:
        return None
    landmarks = np.stack([face.landmarks_shard for face in faces])
    model = ShapeModel.fit(landmarks, manifest.landmark_scheme)
    return model, model.deviations(landmarks)


def _too_few(faces: Sequence[InspectedFace]) -> str:
    about = f"Too few to say what is usual: {len(faces)} faces, a model of their shapes takes {MIN_FACES}."
    return section("The mean face", about)


def _measures(
    faces: Sequence[InspectedFace], manifest: Manifest, fitted: tuple[ShapeModel, Deviations] | None
) -> str:
    keys = "".join(
        f'<span><i class="key {kind}"></i>{escape(split)}</span>'
        for split, kind in zip(compared_splits(faces), ("first", "hollow"), strict=False)
    )
    about = "In percent of the faces of each split, so that splits of any size compare. " + (
        f"Measured on {len(faces):,} faces, spread evenly over the shards."
        if len(faces) < num_faces(manifest)
        else "Measured on every face."
    )
    cards = charts(faces, manifest, distance=fitted[1].distance if fitted else None)
    return section("How the faces are", about, f'<div class="legend">{keys}</div>', grid("grid", cards))


def _shapes(
    store: ShardStore,
    faces: Sequence[InspectedFace],
    fitted: tuple[ShapeModel, Deviations],
    options: InspectOptions,
) -> list[str]:
    model, deviations = fitted
    shares = model.explained_shares(NUM_MODES).tolist()
    modes = [
        card(f"Mode {place}", picture, f"{percent(share)} of all variation")
        for place, (picture, share) in enumerate(
            zip(modes_of_variation(model, NUM_MODES), shares, strict=True), 1
        )
    ]
    caption = "The ellipses are one standard deviation; pointing at one shows its number and spread."
    mean = card("Mean", mean_shape(model), caption)
    number = min(options.unusual, len(faces))
    with progress("drawing", number) as advance:
        unusual = unusual_faces(store, faces, model, deviations, number=number, advance=advance)
    return [
        section("The mean face", ABOUT_MEAN, f'<div class="mean">{mean}{grid("modes", modes)}</div>'),
        section(f"The {number} most unusual faces", ABOUT_UNUSUAL, unusual),
    ]


def _faces(store: ShardStore, faces: Sequence[InspectedFace]) -> str:
    chosen = faces_for_sheets(faces, split_names(store.manifest))
    with progress("drawing", sum(map(len, chosen.values()))) as advance:
        drawn = sheets(store, chosen, advance=advance)
    return section("Faces", "Spread evenly over each subset, cut out closely, with their landmarks.", *drawn)
