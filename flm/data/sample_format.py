"""How shards that someone else made say what ours say in a `SampleRecord`, and how large stored crops are."""

from dataclasses import dataclass
from typing import Literal

MOST_CROP_SIDE_PX = 4096
"""A stored crop whose header claims more is not decoded: a few bytes could ask for all memory there is."""

LEAST_CROP_SIDE_PX = 16
MOST_CROP_MARGIN = 5.0


def check_stored_crop(size_px: int, margin: float) -> None:
    """Refuse crops that nobody could want, before many are made.

    Args:
        size_px: side of the stored crops.
        margin: share of the landmarks' box that they add on each side.

    Raises:
        ValueError: one of the two is out of range; names its flag.
    """
    if not LEAST_CROP_SIDE_PX <= size_px <= MOST_CROP_SIDE_PX:
        raise ValueError(f"--crop-size-px is {size_px}, expected {LEAST_CROP_SIDE_PX} to {MOST_CROP_SIDE_PX}")
    if not 0 <= margin <= MOST_CROP_MARGIN:  # nan neither
        raise ValueError(f"--crop-margin is {margin}, expected 0 to {MOST_CROP_MARGIN:g}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleFormat:
    """The members of a foreign sample, and where in them its landmarks are."""

    picture: str = "jpg"
    """Extension of the member with the picture, of any size; JPEG, PNG and WebP are read."""
    annotation: str = "json"
    """Extension of the member with the landmarks: a JSON object, or an .npy array of points."""
    landmarks_key: str = "landmarks"
    """Where in the JSON the points are: pairs x, y, or one flat list; dots lead into objects."""
    box_key: str | None = None
    """Where in the JSON the face box is; without it the box is the one around the landmarks."""
    box_order: Literal["xywh", "xyxy"] = "xywh"
    """left, top, width, height; or left, top, right, bottom."""
    points: Literal["px", "unit"] = "px"
    """Points and box count in pixels, or in shares of the picture whose edges are 0 and 1."""
    origin: Literal[0, 1] = 0
    """The number of the first pixel, for points in px."""
    subset_key: str | None = None
    """Where in the JSON the part of the data set is that reports name."""
    group_key: str | None = None
    """Where in the JSON the photo is named that several samples may show."""

    def __post_init__(self) -> None:
        if self.annotation.rpartition(".")[2] not in ("json", "npy"):
            raise ValueError(f"--annotation is {self.annotation!r}, expected an extension of .json or .npy")
        if self.origin and self.points == "unit":
            raise ValueError("--origin 1 is for --points px; shares of a picture begin at 0")
        if self.reads_array and (self.box_key or self.subset_key or self.group_key):
            raise ValueError("--box-key, --subset-key and --group-key are for JSON; an .npy has points only")
        for flag, extension in (("--picture", self.picture), ("--annotation", self.annotation)):
            if extension.startswith(".") or extension != extension.lower():
                raise ValueError(f"{flag} is {extension!r}, expected small letters and no dot in front")

    @property
    def reads_array(self) -> bool:
        """Whether the annotation is an .npy."""
        return self.annotation.endswith("npy")
