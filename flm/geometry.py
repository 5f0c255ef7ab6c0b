"""Face boxes, the four frames, every change of coordinates, and the one resampler.

| suffix   | frame            | rule                                                        |
|----------|------------------|-------------------------------------------------------------|
| `_image` | source picture   | px, x right, y down, an integer is the centre of a pixel    |
| `_shard` | stored wide crop | the same                                                    |
| `_crop`  | model input      | the same                                                    |
| `_unit`  | model input      | `u = (x + 0.5) / size`: 0 and 1 are the edges of the crop   |

A matrix `a_to_b` is 3×3 float64 and takes column vectors (x, y, 1) of frame a to frame b.
The functions on points take numpy arrays and torch tensors alike, so that inference needs no torch.
"""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

ArrayOrTensor = Any
"""A numpy array or a torch tensor; jaxtyping checks its dtype and axes either way."""


MOST_INPUT_SIZE_PX = 1024
"""Side of the crop that a network sees, far beyond what landmarks need; a network of a stranger could ask for
all memory there is."""

MIN_FACE_PX = 4.0
"""Landmarks within a box with no longer side than this show no face; their annotation is broken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceBox:
    """A face box in px of the picture it lies in.

    Covers the pixels left … left + width - 1, as dlib reads it, so its edges are at left - 0.5 and
    left + width - 0.5. It may reach past the picture.

    Raises:
        ValueError: a side is not positive, or a number is not finite.
    """

    left: float
    top: float
    width: float
    height: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.left + self.top + self.width + self.height):
            raise ValueError(f"{self} has a number that is not finite")
        if self.width <= 0 or self.height <= 0:
            raise ValueError(f"{self} has a side that is not positive")

    @property
    def center_x(self) -> float:
        """Px, in the frame of the box."""
        return self.left + (self.width - 1) / 2

    @property
    def center_y(self) -> float:
        """Px, in the frame of the box."""
        return self.top + (self.height - 1) / 2

    @property
    def middle(self) -> Float[np.ndarray, "2"]:
        """Both of them: x and y."""
        return np.array([self.center_x, self.center_y])

    @property
    def long_side(self) -> float:
        """The longer of width and height, px."""
        return max(self.width, self.height)

    @classmethod
    def around(cls, points: Float[ArrayOrTensor, "points 2"]) -> "FaceBox":
        """The smallest box whose outermost pixel centres are the outermost points ("truth box")."""
        xs, ys = points.T.tolist()
        if not math.isfinite(sum(xs) + sum(ys)):  # which min and max may overlook
            raise ValueError("a point is not finite")
        left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
        return cls(left=left, top=top, width=right - left + 1, height=bottom - top + 1)

    @classmethod
    def about(cls, middle: Float[np.ndarray, "2"], width: float, height: float) -> "FaceBox":
        """The box of that size with its centre there."""
        x, y = middle.tolist()
        return cls(left=x - (width - 1) / 2, top=y - (height - 1) / 2, width=width, height=height)

    @classmethod
    def of_picture(cls, width: int, height: int) -> "FaceBox":
        """The whole picture as a box."""
        return cls(left=0.0, top=0.0, width=float(width), height=float(height))

    def overlap(self, other: "FaceBox") -> float:
        """Intersection over union, between 0 and 1."""
        width = min(self.left + self.width, other.left + other.width) - max(self.left, other.left)
        height = min(self.top + self.height, other.top + other.height) - max(self.top, other.top)
        shared = max(0.0, width) * max(0.0, height)
        return shared / (self.width * self.height + other.width * other.height - shared)

    def mapped(self, scale_and_shift: Float[np.ndarray, "3 3"]) -> "FaceBox":
        """The box in another frame.

        Args:
            scale_and_shift: from this frame to the other; without rotation, as `square_crop` makes it.
        """
        scale = float(scale_and_shift[0, 0])
        middle = transform_points(self.middle[None], scale_and_shift)[0]
        return FaceBox.about(middle, self.width * scale, self.height * scale)


def turned_back(turn_deg: float, about: Float[np.ndarray, "2"]) -> Float[np.ndarray, "3 3"]:
    """The matrix that turns points counterclockwise, as x right and y down show it, about one of them.

    Args:
        turn_deg: by how much.
        about: the point that stays, px.
    """
    cos, sin = math.cos(math.radians(turn_deg)), math.sin(math.radians(turn_deg))
    turn = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    turn[:2, 2] = about - turn[:2, :2] @ about
    return turn


def square_crop(box: FaceBox, size_px: int, margin: float) -> Float[np.ndarray, "3 3"]:
    """The matrix from the frame of a box to a square crop centred on it.

    Args:
        box: its longer side sets the scale.
        size_px: side of the crop.
        margin: share of the longer side that is added on each of the four sides.
    """
    return square_crops(
        np.array([[box.left, box.top]]), np.array([[box.width, box.height]]), size_px, margin
    )[0]


def square_crops(
    left_top: Float[np.ndarray, "boxes 2"], sides: Float[np.ndarray, "boxes 2"], size_px: int, margin: float
) -> Float[np.ndarray, "boxes 3 3"]:
    """As `square_crop`, of many boxes at once.

    Args:
        left_top: of each box.
        sides: width and height of each.
        size_px: side of the crops.
        margin: share of the longer side that is added on each of the four sides.
    """
    scale = size_px / (sides.max(1) * (1 + 2 * margin))
    centers = left_top + (sides - 1) / 2
    matrices = np.zeros((len(sides), 3, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = scale
    matrices[:, :2, 2] = (size_px - 1) / 2 - scale[:, None] * centers
    matrices[:, 2, 2] = 1
    return matrices


def boxes_around(
    points: Float[np.ndarray, "boxes points 2"],
) -> tuple[Float[np.ndarray, "boxes 2"], Float[np.ndarray, "boxes 2"]]:
    """As `FaceBox.around`, of many faces at once.

    Args:
        points: of each face, finite.

    Returns:
        Left and top of each box, and its width and height, as `square_crops` takes them.
    """
    left_top = points.min(1)
    return left_top, points.max(1) - left_top + 1


def transform_points(
    points_a: Float[ArrayOrTensor, "*batch points 2"], a_to_b: Float[ArrayOrTensor, "*batch 3 3"]
) -> Float[ArrayOrTensor, "*batch points 2"]:
    """Points of frame a in frame b, for an affine matrix a_to_b."""
    # Spelled out: a matmul rounds px to bfloat16 under autocast, and to TF32 where a run allows that.
    return (points_a[..., None, :] * a_to_b[..., None, :2, :2]).sum(-1) + a_to_b[..., None, :2, 2]


def crop_to_unit(
    points_crop: Float[ArrayOrTensor, "*batch points 2"], size_px: int
) -> Float[ArrayOrTensor, "*batch points 2"]:
    """From px of the model input to its unit frame."""
    return (points_crop + 0.5) / size_px


def unit_to_crop(
    points_unit: Float[ArrayOrTensor, "*batch points 2"], size_px: int
) -> Float[ArrayOrTensor, "*batch points 2"]:
    """From the unit frame to px of the model input."""
    return points_unit * size_px - 0.5


def resample(
    picture: UInt8[np.ndarray, "height width channels"],
    picture_to_crop: Float[np.ndarray, "3 3"],
    size_px: int,
) -> UInt8[np.ndarray, "size size channels"]:
    """Cut a square crop out of a picture, anti-aliased; what lies outside the picture is black.

    A crop that shrinks the picture k-fold first averages whole blocks of floor(k)² pixels and then blurs away
    what a bilinear sample would still alias, in the part of the picture that the crop shows.

    Args:
        picture: as decoded.
        picture_to_crop: a similarity or affine matrix.
        size_px: side of the crop.
    """
    shrink = _shrink(picture_to_crop)
    block = max(1, int(shrink))
    region, region_to_picture = _region_of(picture, picture_to_crop, size_px, block)
    if region.size == 0:
        return np.zeros((size_px, size_px, picture.shape[2]), np.uint8)
    if block > 1:
        reduced_size = (region.shape[1] // block, region.shape[0] // block)
        region = cv2.resize(region, reduced_size, interpolation=cv2.INTER_AREA)
        # Block means sit at the centre of their block: x_region = block · x_reduced + (block - 1) / 2.
        half = (block - 1) / 2
        region_to_picture = region_to_picture @ np.array([[block, 0, half], [0, block, half], [0, 0, 1.0]])
    left_over = shrink / block
    if left_over > 1.01:
        # A Gaussian of this width brings a unit-spaced signal to the bandwidth of a left_over-spaced one.
        sigma = 0.5 * float(np.sqrt(left_over**2 - 1))
        region = cv2.GaussianBlur(region, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    region_to_crop = picture_to_crop @ region_to_picture
    crop = cv2.warpAffine(region, region_to_crop[:2], (size_px, size_px), flags=cv2.INTER_LINEAR)
    return np.asarray(crop, dtype=np.uint8).reshape(size_px, size_px, picture.shape[2])


def region_shown(picture_to_crop: Float[np.ndarray, "3 3"], size_px: int) -> FaceBox:
    """The part of a picture that `resample` looks at, px of the picture; it may reach past it.

    Wide enough also where the picture was reduced before, by no more than the crop shrinks it.
    """
    corners = _corners(picture_to_crop, size_px)
    rim = 4 * max(1.0, _shrink(picture_to_crop)) + 2
    low, high = corners.min(axis=0) - rim, corners.max(axis=0) + rim
    width, height = (high - low).tolist()
    return FaceBox(left=float(low[0]), top=float(low[1]), width=width, height=height)


def _shrink(picture_to_crop: Float[np.ndarray, "3 3"]) -> float:
    """How many px of the picture make one of the crop."""
    return float(1 / np.sqrt(abs(np.linalg.det(picture_to_crop[:2, :2]))))


def _corners(picture_to_crop: Float[np.ndarray, "3 3"], size_px: int) -> Float[np.ndarray, "4 2"]:
    """The corners of a crop, px of the picture."""
    edge = size_px - 0.5
    corners_crop = np.array([[-0.5, -0.5], [edge, -0.5], [edge, edge], [-0.5, edge]])
    # Rounded, so that one that lies on a pixel does so in every part of the picture.
    return np.round(transform_points(corners_crop, np.linalg.inv(picture_to_crop)), 6)


def _region_of(
    picture: UInt8[np.ndarray, "height width channels"],
    picture_to_crop: Float[np.ndarray, "3 3"],
    size_px: int,
    block: int,
) -> tuple[UInt8[np.ndarray, "region_height region_width channels"], Float[np.ndarray, "3 3"]]:
    """The part of the picture that the crop shows, its sides whole numbers of blocks, and where it lies.

    Where the picture ends inside a block, its last pixels are repeated up to the block's end.
    """
    corners = _corners(picture_to_crop, size_px)
    height, width = picture.shape[:2]
    rim = 2 * block + 2
    left, top = (max(0, int(v)) for v in np.floor(corners.min(axis=0)) - rim)
    right = min(width, int(np.ceil(corners[:, 0].max())) + rim)
    bottom = min(height, int(np.ceil(corners[:, 1].max())) + rim)
    region = picture[top : max(top, bottom), left : max(left, right)]
    region_to_picture = np.array([[1, 0, left], [0, 1, top], [0, 0, 1]], dtype=np.float64)
    pad_bottom, pad_right = -region.shape[0] % block, -region.shape[1] % block
    if region.size and (pad_bottom or pad_right):
        region = cv2.copyMakeBorder(region, 0, pad_bottom, 0, pad_right, cv2.BORDER_REPLICATE)
        region = region.reshape(region.shape[0], region.shape[1], picture.shape[2])
    return region, region_to_picture
