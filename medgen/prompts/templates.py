"""Templates turn fields, such as modality, organ and finding, into a prompt. `templates.toml` explains their syntax."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from importlib import resources
from pathlib import Path

import msgspec

from medgen.config import did_you_mean
from medgen.errors import ConfigError, InputMissingError

_TOKEN = re.compile(r"\{([^{}\[\]|]*)\}|[\[\]|]|[^\[\]|{}]+|[{}]")
_SPACES = re.compile(r"\s+")
_STOPS = (".", ";", ":", "!", "?")


class TemplateTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One template as a table of a TOML file."""

    parts: tuple[str, ...]
    join: str = " "


@dataclass(frozen=True)
class _Field:
    name: str


@dataclass(frozen=True)
class _Group:
    """Writes the first choice whose fields are all given, or nothing."""

    choices: tuple[tuple[str | _Field | _Group, ...], ...]


@dataclass(frozen=True)
class Template:
    """A prompt made of parts, which contain fields."""

    name: str
    texts: tuple[str, ...]
    """The parts as written in the file."""
    parts: tuple[_Group, ...]
    join: str = " "

    @property
    def described(self) -> dict[str, object]:
        """The template for the provenance, which names no files."""
        return {"name": self.name, "parts": list(self.texts), "join": self.join}

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields, in order, each once."""
        return tuple(dict.fromkeys(name for part in self.parts for name in _names(part)))

    def filled(self, values: Mapping[str, str]) -> str:
        """The prompt for these values by field name, stripped of surrounding space; "" if none of the fields has one.

        A missing field is unknown, so nothing is written for it; an empty one may have a wording of its own.
        """
        values = {name: value.strip() for name, value in values.items()}
        if not any(values.get(name) for name in self.fields):
            return ""
        parts = (_SPACES.sub(" ", _written(part, values) or "").strip() for part in self.parts)
        return self.join.join(filter(None, parts))


def builtin_templates() -> str:
    """The text of the template file in the package."""
    return resources.files("medgen.prompts").joinpath("templates.toml").read_text(encoding="utf-8")


def load_template(named: str) -> Template:
    """The template `NAME` of the package, or `FILE.toml:NAME`.

    InputMissingError for a missing file; ConfigError for one that is malformed or lacks the template.
    """
    file, separator, name = named.rpartition(":")
    if not separator and named.lower().endswith(".toml"):
        file, name = named, ""
    where = file or "the templates of the package"
    try:
        text = Path(file).read_text(encoding="utf-8-sig") if file else builtin_templates()
        tables = tomllib.loads(text)
    except FileNotFoundError:
        raise InputMissingError(f"{file}: no such file of templates") from None
    except OSError as error:
        raise InputMissingError(f"{file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: not valid TOML: {error}") from None
    if not name and len(tables) == 1:
        name = next(iter(tables))
    if name not in tables:
        told = f"no template '{name}'" if name else f"holds several templates; name one, such as {file}:NAME"
        hint = did_you_mean(name, tables, f"templates: {', '.join(tables) or 'none'}")
        raise ConfigError(f"{where}: {told}{hint}")
    try:
        table = msgspec.convert(tables[name], TemplateTable)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}, template '{name}': {str(error).replace('`', '')}") from None
    return parse_template(name, table.parts, table.join, where)


def parse_template(name: str, parts: Sequence[str], join: str = " ", where: str = "") -> Template:
    """A template from the texts of its parts; ConfigError for unbalanced brackets, or if no part has a field."""
    told = f"{where}, template '{name}'".removeprefix(", ")
    template = Template(name, tuple(parts), tuple(_parsed(part, told) for part in parts), join)
    if not template.fields:
        raise ConfigError(f"{told}: has no field; write one as {{name}}")
    return template


def _parsed(text: str, told: str) -> _Group:
    tokens = _TOKEN.finditer(text)
    group, closed = _group(tokens, text, told)
    if closed:
        raise ConfigError(f"{told}: one ] too many in '{text}'")
    if len(group.choices) > 1:
        raise ConfigError(f"{told}: a | outside of [ ] in '{text}'")
    return group


def _group(tokens: Iterator[re.Match[str]], text: str, told: str) -> tuple[_Group, bool]:
    """What stands up to the end or the next ], and whether that came."""
    choices: list[list[str | _Field | _Group]] = [[]]
    for token in tokens:
        if token.group() == "[":
            inner, closed = _group(tokens, text, told)
            if not closed:
                raise ConfigError(f"{told}: a [ is not closed in '{text}'")
            # A group may come to nothing, unless it says what else to write.
            choices[-1].append(inner if len(inner.choices) > 1 else _Group((*inner.choices, ())))
        elif token.group() == "]":
            return _Group(tuple(map(tuple, choices))), True
        elif token.group() == "|":
            choices.append([])
        elif token.group(1) is not None and re.fullmatch(r"\w[\w -]*", token.group(1)):
            choices[-1].append(_Field(token.group(1).lower()))
        elif token.group()[0] in "{}":
            raise ConfigError(f"{told}: '{token.group()}' in '{text}' is not a field; write {{name}}")
        else:
            choices[-1].append(token.group())
    return _Group(tuple(map(tuple, choices))), False


def _names(group: _Group) -> Iterator[str]:
    for piece in (piece for choice in group.choices for piece in choice):
        if isinstance(piece, _Field):
            yield piece.name
        elif isinstance(piece, _Group):
            yield from _names(piece)


def _written(group: _Group, values: Mapping[str, str]) -> str | None:
    """The text of the first choice whose fields are all there; None if there is none.

    Nothing for a group with a field of which nothing is known: "without findings" would be made up.
    """
    needed = (piece.name for choice in group.choices for piece in choice if isinstance(piece, _Field))
    if len(group.choices) > 1 and any(name not in values for name in needed):
        return ""
    for choice in group.choices:
        pieces = [
            piece
            if isinstance(piece, str)
            else (values.get(piece.name) or None)
            if isinstance(piece, _Field)
            else _written(piece, values)
            for piece in choice
        ]
        if None not in pieces:
            return reduce(_continued, (piece for piece in pieces if piece is not None), "")
    return None


def _continued(text: str, piece: str) -> str:
    """Both texts, with one full stop between them where each has one."""
    return text + (piece[1:] if text.endswith(_STOPS) and piece.startswith(".") else piece)
