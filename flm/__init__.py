"""flm: train, measure and use facial-landmark models."""

__version__ = "0.1.0"
