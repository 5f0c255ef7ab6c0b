"""Frozen dataclasses as fields that JSON can hold, and back."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from flm.errors import InputError

T = TypeVar("T")


def to_fields(value: Any) -> Any:
    """A frozen dataclass, with those inside it, as what JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_fields(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [to_fields(item) for item in value]
    return value


def flat_fields(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat.update(flat_fields(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def from_fields(kind: type[T], fields: Any, where: str) -> T:
    """The dataclass that `to_fields` took apart.

    Args:
        kind: the dataclass.
        fields: as read from JSON.
        where: the file, for messages.

    Raises:
        InputError: a field is unknown, missing or has a bad value.
    """
    hints = typing.get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(typing.cast(Any, kind))}
    unknown = set(fields) - known if isinstance(fields, Mapping) else {"(not an object)"}
    if unknown:
        raise InputError(f"{where}: unknown field {min(unknown)!r}; it was written by another version of flm")
    try:
        return kind(**{name: _from_field(hints[name], value, where) for name, value in fields.items()})
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error


def _from_field(hint: Any, value: Any, where: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(option, type):
            return from_fields(option, value, where)
        if option is Path and isinstance(value, str):
            return Path(value)
    return tuple(value) if isinstance(value, list) else value
