"""The types of options structs: their fields, the structs inside them, and what they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

import msgspec


def fields_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Types of the fields by name, including the tag's."""
    tag = kind.__struct_config__.tag_field
    return {field.name: field.type for field in msgspec.structs.fields(kind)} | ({tag: str} if tag else {})


def struct_in(annotation: Any) -> type[msgspec.Struct] | None:
    """The struct class in `annotation` (itself, or inside Optional / Annotated), if any."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return annotation
    for inner in get_args(annotation):
        found = struct_in(inner)
        if found is not None:
            return found
    return None


def type_at(annotation: Any, path: Sequence[str]) -> Any:
    """The type of an option, found by its names from struct to struct; None if there is none."""
    for name in path:
        struct = struct_in(annotation)
        if struct is None or name not in fields_of(struct):
            return None
        annotation = fields_of(struct)[name]
    return annotation


def words_of(annotation: Any) -> list[str]:
    """The words of all Literals in a type."""
    if get_origin(annotation) is Literal:
        return list(map(str, get_args(annotation)))
    return [word for inner in get_args(annotation) for word in words_of(inner)]


def takes(annotation: Any, value: object) -> bool:
    """Whether a plain value fits the type."""
    try:
        msgspec.convert(value, annotation)
    except msgspec.ValidationError:
        return False
    return True
