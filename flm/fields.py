"""Frozen dataclasses as fields that JSON can hold, and back."""

import dataclasses
import json
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from flm.errors import InputError

T = TypeVar("T")

_JSON_TYPES = {
    bool: (bool,),
    int: (int,),
    float: (float, int),
    str: (str,),
    Path: (str,),
    tuple: (list,),
    dict: (dict,),
    Mapping: (dict,),
}
"""What a field of each type is in JSON."""

_HALF_LETTER = re.compile(r"\\u[dD][89a-fA-F]")
"""An escape that, without its other half, makes a text that cannot be written."""


def parse_json(text: str | bytes) -> Any:
    """What a JSON text of a stranger holds; all of it can be written as JSON again.

    Raises:
        ValueError: it is no JSON in UTF-8, or is nested too deeply.
    """
    text = text if isinstance(text, str) else text.decode("utf-8-sig")
    try:
        value = json.loads(text)
        if _HALF_LETTER.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


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
        kind: the dataclass. Its fields are dataclasses, `Literal`, bool, int, float, str, Path,
            `dict[str, X]`, `Mapping[str, X]` or `tuple[X, ...]`; or None and one of these.
        fields: as read from JSON.
        where: the file, for messages.

    Raises:
        InputError: a field is unknown, missing or has a bad value.
    """
    if not isinstance(fields, Mapping):
        raise InputError(f"{where}: is {fields!r}, expected the fields of {kind.__name__}")
    known = {field.name: field for field in dataclasses.fields(typing.cast(Any, kind))}
    required = {name for name, field in known.items() if _has_no_default(field)}
    for state, names in (("unknown", fields.keys() - known), ("missing", required - fields.keys())):
        if names:
            raise InputError(f"{where}: {min(names)} is {state}; it was written by another version of flm")
    hints = typing.get_type_hints(kind)
    values = {name: _from_field(hints[name], value, f"{where}: {name}") for name, value in fields.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _from_field(hint: Any, value: Any, where: str) -> Any:
    kind, options = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (types.UnionType, typing.Union):
        if value is None:
            return None
        (hint,) = (option for option in options if option is not types.NoneType)
        return _from_field(hint, value, where)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return from_fields(typing.cast(Any, kind), value, where)
    if kind is Literal:
        if value not in options:
            raise InputError(f"{where} is {value!r}, expected one of {', '.join(map(repr, options))}")
        return value
    # The exact type, since a bool is an int.
    if type(value) not in _JSON_TYPES[kind]:
        raise InputError(f"{where} is {value!r}, expected {kind.__name__}")
    if kind is tuple:
        return tuple(_from_field(options[0], item, where) for item in value)
    if kind in (dict, Mapping):
        return {name: _from_field(options[1], item, f"{where}.{name}") for name, item in value.items()}
    try:
        return kind(value) if kind in (Path, float) else value
    except OverflowError as error:
        raise InputError(f"{where} is a number of {len(str(value))} digits, expected fewer") from error
