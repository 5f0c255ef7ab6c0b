"""What others have published, each number with what it was measured on.

The numbers are those of the authors' papers, repositories and logs, except where `source` says that others
measured again. Most are the best of many evaluations on the test set itself; an honest choice, as ours on a
validation part, costs 0.02 to 0.05 points. Crops differ too: the landmarks' own box, enlarged by 10 to 60 %.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from flm.metrics.nme import WHOLE


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """What a table of published numbers is measured on."""

    name: str
    scheme: str
    training_faces: int
    subsets: Mapping[str, int]
    """Faces of each subset of the test set, as the columns of the table."""
    normalization: str
    about: str

    def measured_whole(self, subsets: Mapping[str, tuple[int, float]]) -> dict[str, float]:
        """The errors on those subsets of the test set that were measured whole, and on no others.

        As many faces in all are the same faces only where each part has as many.

        Args:
            subsets: of the same test set; number of faces and error of each.
        """
        whole = {
            name: subsets[name][1]
            for name, num_faces in self.subsets.items()
            if name in subsets and subsets[name][0] == num_faces
        }
        if whole.keys() != self.subsets.keys():
            whole.pop(WHOLE, None)
        return whole


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedResult:
    """One method's row."""

    method: str
    source: str
    input_size_px: int | None
    """None where it was not found, as everything else that is None."""
    num_parameters: int | None
    nme_pct: Mapping[str, float]
    """By subset; those that were not found are left out."""


IBUG_300W = Protocol(
    name="300-W",
    scheme="ibug-68",
    training_faces=3148,
    subsets=MappingProxyType({"full": 689, "common": 554, "challenging": 135}),
    normalization="distance of the outer eye corners",
    about="full = common (test parts of HELEN and LFPW) + challenging (iBUG)",
)


def _on_300w(
    method: str,
    source: str,
    input_size_px: int | None,
    num_parameters: int | None,
    *nme_pct: float | None,
) -> PublishedResult:
    columns = zip(IBUG_300W.subsets, nme_pct, strict=True)
    return PublishedResult(
        method=method,
        source=source,
        input_size_px=input_size_px,
        num_parameters=num_parameters,
        nme_pct=MappingProxyType({name: value for name, value in columns if value is not None}),
    )


PUBLISHED_300W = (
    _on_300w("D-ViT", "2025", None, None, 2.85, None, None),
    _on_300w("STAR", "Zhou et al., CVPR 2023", 256, 13_400_000, 2.87, 2.52, 4.32),
    _on_300w("STAR", "measured again by others", 256, 13_400_000, 2.90, None, 4.46),
    _on_300w("FaRL-B", "Zheng et al., CVPR 2022; last epoch", 448, None, 2.93, 2.55, 4.46),
    _on_300w("ORFormer", "Chiang et al., WACV 2025", None, None, 2.90, 2.53, 4.43),
    _on_300w("ADNet", "Huang et al., ICCV 2021", 256, 13_400_000, 2.93, 2.53, 4.58),
    _on_300w("SPIGA", "Prados-Torreblanca et al., BMVC 2022", 256, None, 2.99, 2.59, 4.66),
    _on_300w("AWing", "Wang et al., ICCV 2019", None, 25_100_000, 3.07, 2.72, 4.52),
    _on_300w("SLPT", "Xia et al., CVPR 2022", None, 10_000_000, 3.17, 2.75, 4.90),
    _on_300w("PIPNet, ResNet-101", "Jin et al., IJCV 2021", None, 45_700_000, 3.19, 2.78, 4.89),
    _on_300w("PIPNet, ResNet-18", "Jin et al., IJCV 2021", None, None, 3.36, None, None),
    _on_300w("PIPNet, MobileNetV2", "Jin et al., IJCV 2021", None, None, 3.40, None, None),
    _on_300w("HRNetV2-W18", "Wang et al., 2019; official", None, 9_300_000, 3.34, 2.91, 5.11),
    _on_300w("HRNetV2-W18", "trained again in mmpose", None, 9_300_000, 3.45, 2.92, 5.64),
)
"""68 points, trained on 3,148 faces."""

PUBLISHED: Mapping[str, tuple[Protocol, tuple[PublishedResult, ...]]] = MappingProxyType(
    {IBUG_300W.scheme: (IBUG_300W, PUBLISHED_300W)}
)
"""The tables by landmark scheme."""
