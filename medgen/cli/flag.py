"""A field of an options struct as a flag: its type, its help, and the parsing of its value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from medgen.config import Described, did_you_mean
from medgen.errors import ConfigError, UsageError


@dataclass(frozen=True)
class Flag:
    """A field of an options struct on the command line."""

    key: str
    """Dotted name in the struct, such as `loop.steps`."""
    annotation: Any
    """Type of its value, with its limits."""
    said: Described
    limits: str
    """Range in words, such as `x>=1`."""
    default: Any

    @property
    def kind(self) -> Any:
        """Type of its value, without None and annotations; a switch may also take words."""
        bare = _bare(self.annotation)
        return bool if bool in get_args(bare) else bare

    @property
    def parameter(self) -> str:
        """Name in the command's signature."""
        return "option_" + self.key.replace(".", "__")

    @property
    def switches(self) -> str:
        """As typed: `--steps`, `-n/--count`, `--marks/--no-marks`."""
        name = self.said.flag or "--" + self.key.rpartition(".")[2].replace("_", "-")
        if self.kind is bool and "/" not in name and self.default is not False:
            name += "/--no-" + name.removeprefix("--")
        return name

    @property
    def typed(self) -> Any:
        """The type typer parses it as; `value` parses anything but numbers and switches."""
        if self.said.repeat:
            return list[str] | None
        kind = type(get_args(self.kind)[0]) if get_origin(self.kind) is Literal else self.kind  # of words or numbers
        return (kind if kind in (bool, int, float) else str) | None

    @property
    def choices(self) -> list[str]:
        """The words or numbers allowed; empty where any value is."""
        kinds = get_args(self.kind) if get_origin(self.kind) in (Union, UnionType) else (self.kind,)
        return [str(one) for kind in kinds if get_origin(kind) is Literal for one in get_args(kind) if one != ""]

    @property
    def metavar(self) -> str | None:
        """The value's placeholder in help texts."""
        if self.said.metavar or self.kind is bool:
            return self.said.metavar or None
        if self.choices:
            return "|".join(self.choices)
        return {int: "N", float: "X"}.get(self.kind, "TEXT")

    def help(self, defaults: list[Any]) -> str:
        """Help with default and range; `defaults` are those of all structs that share the flag."""
        shown = self.said.default or " or ".join(dict.fromkeys(filter(None, map(self._shown, defaults))))
        if msgspec.NODEFAULT in defaults:
            told = "required"
        else:
            told = f"default: {shown or 'none'}" if shown or self.kind is not bool else ""
        facts = "; ".join(filter(None, [told, self.limits]))
        return f"{self.said.help}  [{facts}]" if facts else self.said.help

    def _shown(self, default: Any) -> str:
        if isinstance(default, bool):
            on, _, off = self.switches.partition("/")
            return (on if default else off).removeprefix("--").removeprefix("no-") if off and default else ""
        if isinstance(default, float):
            return f"{default:g}"
        if isinstance(default, tuple):
            return ",".join(f"{one:g}" if isinstance(one, float) else str(one) for one in default)
        return "" if default in (None, msgspec.NODEFAULT) else str(default)

    def completed(self, incomplete: str) -> list[str]:
        """The choices that begin with `incomplete`."""
        return [choice for choice in self.choices if choice.startswith(incomplete)]

    def value(self, given: Any) -> Any:
        """The given value in the struct's type; UsageError for a list of the wrong length, ConfigError otherwise."""
        if given is None or given == []:
            return None
        parsed = self._parsed(given)
        try:
            msgspec.convert(parsed, self.annotation)
        except msgspec.ValidationError as error:
            reason = str(error).replace("`", "").partition(" - at")[0]
            if "regex" in reason:
                reason = f"expected {self.metavar}"
            raise ConfigError(f"{self.name} {given}: {reason[0].lower()}{reason[1:]}") from None
        return parsed

    @property
    def name(self) -> str:
        """The long name alone."""
        return max(self.switches.partition("/")[0].split(), key=len)

    def as_typed(self, value: Any) -> str:
        """The name with which this value was typed: of a switch that was turned off, the other one."""
        return self.switches.partition("/")[2] if value is False else self.name

    def _parsed(self, given: Any) -> Any:
        kind = self.kind
        if get_origin(kind) in (Union, UnionType):  # a word, or a list of numbers in its place
            kind = next(one for one in get_args(kind) if (get_origin(one) is tuple) == given.strip()[:1].isdigit())
        inner = get_args(kind)
        self._check_word(given, given, kind)
        if get_origin(kind) is not tuple:
            return given
        words = given if isinstance(given, list) else [word.strip() for word in given.split(",")]
        item = _bare(inner[0])
        for word in words:
            self._check_word(word, given, item)
        if item in (int, float):
            try:
                words = [item(word) for word in words]
            except ValueError:
                raise UsageError(f"{self.name} {given}: expected {self.metavar}") from None
            if inner[-1] is not Ellipsis and len(words) == 1:  # one number for both ends of a range
                words = words * len(inner)
        if inner[-1] is not Ellipsis and len(words) != len(inner):
            raise UsageError(f"{self.name} {given}: expected {self.metavar}")
        return words

    def _check_word(self, word: Any, given: Any, kind: Any) -> None:
        """ConfigError for a word that is none of a Literal's choices; `given` is all that was typed."""
        if get_origin(kind) is Literal and word not in get_args(kind):
            choices = list(map(str, get_args(kind)))
            hint = did_you_mean(str(word), choices, f"choose from {', '.join(choices)}")
            raise ConfigError(f"{self.name} {given}{hint if word == given else f': {word}{hint}'}")


def flags_of(kind: type[msgspec.Struct], above: str = "") -> dict[str, Flag]:
    """The flags of a struct and of the structs in it, by dotted key."""
    flags: dict[str, Flag] = {}
    for field in msgspec.structs.fields(kind):
        default = field.default
        if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        key, bare = f"{above}{field.name}", _bare(field.type)
        if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
            flags |= flags_of(bare, f"{key}.")
            continue
        metas = _metas(field.type)
        said = next((meta.extra["option"] for meta in metas if meta.extra and "option" in meta.extra), None)
        if said is not None:
            flags[key] = Flag(key, field.type, said, _limits(metas), default)
    return flags


def flags_of_all(kinds: Sequence[type[msgspec.Struct]]) -> dict[str, list[Flag]]:
    """The flags of several structs by dotted key; first the flag that chooses between tagged structs."""
    flags: dict[str, list[Flag]] = {}
    tag = kinds[0].__struct_config__.tag_field
    if tag is not None:
        told = {str(kind.__struct_config__.tag): (kind.__doc__ or "").partition("\n")[0].rstrip(".") for kind in kinds}
        said = Described("; ".join(f"{name}: {about[:1].lower()}{about[1:]}" for name, about in told.items()) + ".")
        flags[tag] = [Flag(tag, Literal[tuple(told)], said, "", next(iter(told)))]
    for kind in kinds:
        for key, flag in flags_of(kind).items():
            flags.setdefault(key, []).append(flag)
    return flags


def _bare(annotation: Any) -> Any:
    """The type without None and Annotated."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        inner = [one for one in get_args(annotation) if one is not type(None)]
        return _bare(inner[0]) if len(inner) == 1 else annotation
    return annotation


def _metas(annotation: Any) -> list[msgspec.Meta]:
    """All metadata of a type, also where it is in a union with None."""
    if get_origin(annotation) is Annotated:
        inner, *metas = get_args(annotation)
        return [*_metas(inner), *(meta for meta in metas if isinstance(meta, msgspec.Meta))]
    if get_origin(annotation) in (Union, UnionType):
        return [meta for one in get_args(annotation) for meta in _metas(one)]
    return []


def _limits(metas: list[msgspec.Meta]) -> str:
    low = high = ""
    for meta in metas:
        if meta.ge is not None or meta.gt is not None:
            low = f"{meta.ge:g}<=" if meta.ge is not None else f"{meta.gt:g}<"
        if meta.le is not None or meta.lt is not None:
            high = f"<={meta.le:g}" if meta.le is not None else f"<{meta.lt:g}"
    if low and not high:  # read as "x>=1"
        return f"x>{'=' if low.endswith('=') else ''}{low.rstrip('<=')}"
    return f"{low}x{high}" if low or high else ""
