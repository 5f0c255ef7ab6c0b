"""flm: train, measure and use facial-landmark models."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["load"]

if TYPE_CHECKING:
    from flm.inference.load import load


def __getattr__(name: str) -> Any:
    # Inference takes a while to import, and most of what imports flm needs none of it.
    if name == "load":
        from flm.inference.load import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
