"""A linear model of the shapes of a data set, and how well each face fits into it.

Shapes are aligned by position, size and roll (Procrustes); what is left is taken as normally distributed,
with the modes of variation as its principal axes. A point, or a facial part, is then judged by the rest of
its face: how far it lies from where the others put it, in the covariance that this guess has. So an extreme
face whose points agree is usual, and a small mistake on a steady point is not. The model is fitted again
without the faces that fit worst, since an annotation that is wrong shall not explain itself.

Source: Cootes et al., "Active Shape Models: Their Training and Application", 1995; the conditional normal
distribution by way of the precision matrix: Rue and Held, "Gaussian Markov Random Fields", 2005, section 2.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex, Float, Int

from flm.landmarks import LandmarkScheme

MIN_FACES = 20
"""Fewer say nothing about what is usual."""

FACES_PER_MODE = 8
"""A mode has to be seen in that many faces; what more of them would hold counts as noise of single points."""

ANNOTATION_NOISE = 0.008
"""Inter-ocular distances. Two people who mark the same point differ by more, so less is no deviation."""

UNKNOWN_MOVE = 10.0
"""Inter-ocular distances, over all points together; far more than shapes vary."""

TRIMMED_SHARE = 0.05
"""Of the faces, left out of the fit."""

FITS = 4
ALIGNMENTS_PER_FIT = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Deviations:
    """How well each face of a data set fits into the model."""

    distance: Float[np.ndarray, " faces"]
    """Mean of how far the worst point and the worst part deviate, each in medians over all: 1 is usual."""
    worst_point: Int[np.ndarray, " faces"]
    worst_part: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeModel:
    """Frame: x right, y down, the mean's outer eye corners level and 1 apart, its centroid the origin."""

    scheme: LandmarkScheme
    mean: Float[np.ndarray, "points 2"]
    covariance: Float[np.ndarray, "coordinates coordinates"]
    """Of x and y of point 0, x and y of point 1, and so on; annotation noise included."""

    @classmethod
    def fit(cls, landmarks: Float[np.ndarray, "faces points 2"], scheme: LandmarkScheme) -> "ShapeModel":
        """Fit the model to faces and their mirror images.

        Args:
            landmarks: in any frame of equal x and y scale, faces roughly upright.
            scheme: of them.

        Raises:
            ValueError: fewer than `MIN_FACES`.
        """
        if len(landmarks) < MIN_FACES:
            raise ValueError(f"a shape model of {len(landmarks)} faces, expected at least {MIN_FACES}")
        shapes = _centered(landmarks)
        mean = _normalised(_median(shapes / _sizes(shapes)), scheme)
        kept = np.ones(len(shapes), dtype=bool)
        for _ in range(FITS - 1):
            model = cls._fit_once(shapes[kept], mean, scheme)
            mean = _as_complex(model.mean)
            distance = model.deviations(landmarks).distance
            kept = distance <= np.quantile(distance, 1 - TRIMMED_SHARE)
        return cls._fit_once(shapes[kept], mean, scheme)

    @classmethod
    def _fit_once(
        cls,
        shapes: Complex[np.ndarray, "faces points"],
        mean: Complex[np.ndarray, " points"],
        scheme: LandmarkScheme,
    ) -> "ShapeModel":
        for _ in range(ALIGNMENTS_PER_FIT):
            aligned = _aligned(shapes, mean)
            both = np.concatenate([aligned, _mirrored(aligned, scheme)])
            mean = _normalised(both.mean(axis=0), scheme)
        aligned = _aligned(shapes, mean)
        both = np.concatenate([aligned, _mirrored(aligned, scheme)])
        differences = _as_points(both - mean).reshape(len(both), -1)
        num_modes = len(shapes) // FACES_PER_MODE
        return cls(scheme=scheme, mean=_as_points(mean), covariance=_covariance(differences, num_modes))

    def modes(self, number: int) -> Float[np.ndarray, "number points 2"]:
        """One standard deviation of each of the strongest modes of variation, the strongest first."""
        variances, directions = np.linalg.eigh(self.covariance)
        strongest = (directions * np.sqrt(variances)).T[::-1][:number]
        return strongest.reshape(number, -1, 2)

    def explained_shares(self, number: int) -> Float[np.ndarray, " number"]:
        """Which share of the variance each of the strongest modes has."""
        variances = np.linalg.eigvalsh(self.covariance)
        return variances[::-1][:number] / variances.sum()

    def point_covariance(self) -> Float[np.ndarray, "points 2 2"]:
        """How each point varies about the mean."""
        num_points = len(self.mean)
        blocks = self.covariance.reshape(num_points, 2, num_points, 2)
        return np.stack([blocks[point, :, point] for point in range(num_points)])

    def deviations(self, landmarks: Float[np.ndarray, "faces points 2"]) -> Deviations:
        """Judge faces, against each other and by the model.

        Args:
            landmarks: as `fit` takes them; at least one face.
        """
        shapes = _centered(landmarks)
        mean = _as_complex(self.mean)
        differences = _as_points(_aligned(shapes, mean) - mean).reshape(len(shapes), -1)
        precision = self._precision()
        pulls = differences @ precision
        parts = tuple(self.scheme.parts)
        of_points = _relative([_deviation(pulls, precision, [point]) for point in range(len(self.mean))])
        of_parts = _relative([_deviation(pulls, precision, self.scheme.parts[part]) for part in parts])
        worst_point, worst_part = of_points.max(axis=0), of_parts.max(axis=0)
        distance = (worst_point / np.median(worst_point) + worst_part / np.median(worst_part)) / 2
        return Deviations(
            distance=distance,
            worst_point=of_points.argmax(axis=0),
            worst_part=tuple(parts[index] for index in of_parts.argmax(axis=0)),
        )

    def _precision(self) -> Float[np.ndarray, "coordinates coordinates"]:
        """The inverse of the covariance, position, size and roll being unknown.

        Without that, all points together would have to stay where the alignment puts them, so a part that
        slipped would be taken as the reason why the others lie to its other side.
        """
        mean = _as_complex(self.mean)
        turned = _as_points(np.stack([np.ones_like(mean), 1j * np.ones_like(mean), mean, 1j * mean]))
        moves = turned.reshape(len(turned), -1)
        moves /= np.linalg.norm(moves, axis=1, keepdims=True)
        return np.linalg.inv(self.covariance + UNKNOWN_MOVE**2 * moves.T @ moves)

    def expected(
        self, landmarks: Float[np.ndarray, "points 2"], points: Sequence[int]
    ) -> Float[np.ndarray, "points 2"]:
        """A face with some of its points where the others put them, in the frame of the given landmarks."""
        mean = _as_complex(self.mean)
        shape = _centered(landmarks[None])[0]
        turn = _alignment(shape[None], mean)[0]
        differences = _as_points(shape * turn - mean).ravel()
        precision = self._precision()
        moved = _coordinates(points)
        inside = precision[np.ix_(moved, moved)]
        corrected = differences.copy()
        corrected[moved] -= np.linalg.solve(inside, (precision @ differences)[moved])
        expected = (_as_complex(corrected.reshape(-1, 2)) + mean) / turn
        return landmarks.mean(axis=0) + _as_points(expected)


def _coordinates(points: Sequence[int]) -> list[int]:
    return [2 * point + axis for point in points for axis in (0, 1)]


def _deviation(
    pulls: Float[np.ndarray, "faces coordinates"],
    precision: Float[np.ndarray, "coordinates coordinates"],
    points: Sequence[int],
) -> Float[np.ndarray, " faces"]:
    """Mahalanobis distance of some points from where the rest of the face puts them."""
    chosen = _coordinates(points)
    covariance = np.linalg.inv(precision[np.ix_(chosen, chosen)])
    return np.sqrt(np.einsum("fi,ij,fj->f", pulls[:, chosen], covariance, pulls[:, chosen]))


def _relative(deviations: Sequence[Float[np.ndarray, " faces"]]) -> Float[np.ndarray, "kinds faces"]:
    """In medians over the data set, since some points are marked with more care than others."""
    stacked = np.stack(deviations)
    return stacked / np.median(stacked, axis=1, keepdims=True).clip(1e-9)


def _covariance(
    differences: Float[np.ndarray, "shapes coordinates"], num_modes: int
) -> Float[np.ndarray, "coordinates coordinates"]:
    """The strongest modes as they are, the others as noise of each coordinate by itself."""
    sample = differences.T @ differences / len(differences)
    variances, directions = np.linalg.eigh(sample)
    strong = (directions * np.sqrt(variances.clip(0)))[:, ::-1][:, :num_modes]
    modelled = strong @ strong.T
    noise = (np.diag(sample) - np.diag(modelled)).clip(0) + ANNOTATION_NOISE**2
    return modelled + np.diag(noise)


def _as_complex(points: Float[np.ndarray, "*shapes points 2"]) -> Complex[np.ndarray, "*shapes points"]:
    """As numbers of which a product turns and scales."""
    return points[..., 0] + 1j * points[..., 1]


def _as_points(shapes: Complex[np.ndarray, "*shapes points"]) -> Float[np.ndarray, "*shapes points 2"]:
    return np.stack([np.real(shapes), np.imag(shapes)], axis=-1)


def _centered(landmarks: Float[np.ndarray, "faces points 2"]) -> Complex[np.ndarray, "faces points"]:
    shapes = _as_complex(landmarks)
    return shapes - shapes.mean(axis=1, keepdims=True)


def _sizes(shapes: Complex[np.ndarray, "faces points"]) -> Float[np.ndarray, "faces 1"]:
    return np.linalg.norm(shapes, axis=1, keepdims=True).clip(1e-9)


def _median(shapes: Complex[np.ndarray, "faces points"]) -> Complex[np.ndarray, " points"]:
    return np.median(np.real(shapes), axis=0) + 1j * np.median(np.imag(shapes), axis=0)


def _alignment(
    shapes: Complex[np.ndarray, "faces points"], mean: Complex[np.ndarray, " points"]
) -> Complex[np.ndarray, "faces 1"]:
    """What each shape is to be multiplied by to come nearest to the mean."""
    return (shapes.conj() * mean).sum(axis=1, keepdims=True) / _sizes(shapes) ** 2


def _aligned(
    shapes: Complex[np.ndarray, "faces points"], mean: Complex[np.ndarray, " points"]
) -> Complex[np.ndarray, "faces points"]:
    return shapes * _alignment(shapes, mean)


def _mirrored(
    shapes: Complex[np.ndarray, "faces points"], scheme: LandmarkScheme
) -> Complex[np.ndarray, "faces points"]:
    return -shapes[:, list(scheme.mirror_permutation)].conj()


def _normalised(
    shape: Complex[np.ndarray, " points"], scheme: LandmarkScheme
) -> Complex[np.ndarray, " points"]:
    right, left = scheme.outer_eye_corners
    return (shape - shape.mean()) / (shape[left] - shape[right])
