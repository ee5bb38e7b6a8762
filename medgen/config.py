"""Options: frozen structs that check themselves, filled from preset, file and command line.

A preset and a configuration file have the same shape: one TOML table a command, for instance
`[train-vae]` with `[train-vae.network]` below it. Later layers win key by key:
defaults < preset < file < `--set key=value` < the command's own flags.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from medgen.errors import ConfigError, InputMissingError
from medgen.structs import fields_of, struct_in, takes, type_at, words_of


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every options struct: immutable, and unknown keys are errors."""


OptionsT = TypeVar("OptionsT", bound=Options)
Layer = tuple[Mapping[str, Any], str]
"""Values from one source, and the name of the source for messages."""


@dataclass(frozen=True)
class Described:
    """The description of an option, besides its type, range and default."""

    help: str
    flag: str = ""
    metavar: str = ""
    group: str = ""
    default: str = ""
    repeat: bool = False
    instead_of: tuple[str, ...] = ()


def option(
    text: str,
    *,
    flag: str = "",
    metavar: str = "",
    group: str = "",
    default: str = "",
    repeat: bool = False,
    instead_of: tuple[str, ...] = (),
    **limits: Any,
) -> msgspec.Meta:
    """Describe an option, and give it a flag on the command line.

    `flag`: if it is not the field's name, such as `-n --count` or `--keep-aspect/--stretch`. `group`: the heading
    above it in the help. `default`: what it means to give no value. `repeat`: a list given item by item. `instead_of`:
    options that a list of numbers replaces. `limits`: those of msgspec.Meta (ge, gt, le, lt, pattern). An option
    without a flag is described by msgspec.Meta(description=...).
    """
    said = Described(text, flag, metavar, group, default, repeat, instead_of)
    return msgspec.Meta(description=text, extra={"option": said}, **limits)


SEED = option("Seed of everything random.", ge=0)


def resolve(
    kind: type[OptionsT] | Sequence[type[OptionsT]],
    command: str,
    *,
    tables: Iterable[str],
    preset: str | None = None,
    file: Path | None = None,
    sets: Sequence[str] = (),
    flags: Mapping[str, object] | None = None,
    say: Callable[[str], object] = lambda message: None,
) -> OptionsT:
    """Merge all layers for `command` and check the result against `kind`.

    If there are several kinds, they are tagged, and the layers select one by its tag; the first is the default. Of a
    preset that is made for another kind, only the options that both kinds have are taken.
    `tables` names every table a file may hold; `flags` maps dotted keys to values, None meaning "not given".
    `say` hears of a preset or file that has no table for the command.
    Raises ConfigError naming the key, its source and, for an unknown key, the nearest known one.
    """
    sources = [(load_preset(preset), f"preset '{preset}'")] if preset is not None else []
    sources += [(_load_file(file, tables), file.name)] if file is not None else []
    layers: list[Layer] = []
    for content, name in sources:
        if command not in content:
            say(f"{name} has no options for {command}")
        layers.append((content.get(command, {}), f"{name}, table [{command}]"))
    kinds = [kind] if isinstance(kind, type) else kind
    for item in sets:
        key, value = parse_setting(item, "--set")
        layers.append((_nest(key, _meant_value(kinds, key, item.partition("=")[2].strip(), value)), f"--set {item}"))
    for key, value in (flags or {}).items():
        if value is not None:
            layers.append((_nest(key, value), f"command line ({key})"))
    meant = _meant(kinds, layers)
    if preset is not None and _meant(kinds, layers[:1]) is not meant:
        values, where = layers[0]
        layers[0] = (
            {key: value for key, value in values.items() if not _owners(kinds, key) or key in fields_of(meant)},
            where,
        )
    merged: dict[str, Any] = {}
    for values, where in layers:
        _check_owner(meant, kinds, values, where)
        _merge_layer(merged, meant, values, where)
    return convert(meant, merged, f"configuration of {command}")


def _meant(kinds: Sequence[type[OptionsT]], layers: Iterable[Layer]) -> type[OptionsT]:
    """The kind selected by tag in the last layer that has a tag."""
    by_tag = {kind.__struct_config__.tag: kind for kind in kinds}
    field = kinds[0].__struct_config__.tag_field
    meant = kinds[0]
    for values, where in layers:
        if field is not None and field in values:
            tag = values[field]
            if tag not in by_tag:
                choices = list(map(str, by_tag))
                hint = did_you_mean(str(tag), choices, f"choose from {', '.join(choices)}")
                raise ConfigError(f"{where}: {field} = '{tag}'{hint}")
            meant = by_tag[tag]
    return meant


def _check_owner(
    meant: type[msgspec.Struct], kinds: Iterable[type[msgspec.Struct]], values: Iterable[str], where: str
) -> None:
    """ConfigError for a key that belongs to a kind other than the selected one."""
    for key in values:
        owners = _owners(kinds, key)
        if owners and key not in fields_of(meant):
            field, tag = meant.__struct_config__.tag_field, meant.__struct_config__.tag
            raise ConfigError(
                f"{where}: '{key}' is an option of {field} {' or '.join(owners)}, and this is {field} {tag}"
            )


def _owners(kinds: Iterable[type[msgspec.Struct]], key: str) -> list[str]:
    """Tags of the kinds that have this option."""
    return [str(kind.__struct_config__.tag) for kind in kinds if key in fields_of(kind)]


def parse_setting(item: str, flag: str) -> tuple[str, object]:
    """`key=value` as given to `flag` -> the dotted key and the value; ConfigError if it has another form."""
    key, separator, text = item.partition("=")
    if not separator:
        raise ConfigError(f"{flag} {item}: expected key=value")
    return key.strip(), _parse_value(text)


def convert(kind: type[OptionsT], values: Mapping[str, Any], where: str) -> OptionsT:
    """Build `kind` from plain values (as read from TOML or JSON); ConfigError says which key is wrong."""
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        told, _, place = str(error).replace("`", "").replace("$.", "").partition(" - at ")
        path = re.findall(r"\w+", re.sub(r"\[.*?\]", "", place))
        choices = words_of(type_at(kind, path)) if "enum value" in told else []
        hint = f"; choose from {', '.join(choices)}" if choices else "; put it in quotes" * ("Expected str" in told)
        raise ConfigError(f"{where}: {told}{place and f' - at {place}'}{hint}") from None


def _meant_value(kinds: Iterable[Any], key: str, text: str, value: object) -> object:
    """The value of a setting: its `text` itself for an option of text, such as a label called 0."""
    found = (type_at(kind, key.split(".")) for kind in kinds)
    return text if any(takes(one, text) and not takes(one, value) for one in found if one is not None) else value


def plain(options: msgspec.Struct) -> dict[str, Any]:
    """The options as nested dicts of JSON values, without None (TOML has no null)."""
    return _without_none(msgspec.to_builtins(options))  # type: ignore[no-any-return]


def completed(kind: type[msgspec.Struct], then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Plain options of an older version, with the defaults of those in `now` that it did not have."""
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    whole = dict(then)
    for name in now.keys() & fields.keys():
        nested, field = struct_in(fields[name].type), fields[name]
        if name not in whole and field.default is not msgspec.NODEFAULT:
            whole |= _without_none({name: msgspec.to_builtins(field.default)})
        elif nested is not None and isinstance(whole.get(name), Mapping) and isinstance(now[name], Mapping):
            whole[name] = completed(nested, whole[name], now[name])
    return whole


def to_toml(command: str, options: Options) -> str:
    """The options as TOML that `--config` can read."""
    import tomli_w

    return tomli_w.dumps({command: plain(options)})


def preset_names() -> list[str]:
    """Names of the presets shipped with the package."""
    folder = resources.files("medgen.presets")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def preset_text(name: str) -> str:
    """The TOML text of one preset; ConfigError with the nearest name if there is none."""
    names = preset_names()
    if name not in names:
        raise ConfigError(f"no preset '{name}'{did_you_mean(name, names)}; presets: {', '.join(names)}")
    return resources.files("medgen.presets").joinpath(f"{name}.toml").read_text(encoding="utf-8")


def load_preset(name: str) -> dict[str, Any]:
    """One preset as nested dicts."""
    return tomllib.loads(preset_text(name))


def did_you_mean(name: str, names: Iterable[str], otherwise: str = "") -> str:
    """`; did you mean 'X'?` if a known name is similar, else `otherwise` after a semicolon, unless it is empty."""
    near = difflib.get_close_matches(name, list(names), n=1)
    hint = f"did you mean '{near[0]}'?" if near else otherwise
    return f"; {hint}" if hint else ""


def _load_file(file: Path, tables: Iterable[str]) -> dict[str, Any]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputMissingError(f"{file}: no such configuration file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from None
    except OSError as error:
        raise InputMissingError(f"{file}: {error.strerror}") from None
    known = list(tables)
    for table, options in content.items():
        if table not in known:
            raise ConfigError(f"{file}: unknown table [{table}]{did_you_mean(table, known)}; tables are commands")
        if not isinstance(options, dict):
            raise ConfigError(f"{file}: '{table}' is a command, and its options stand in a table, below [{table}]")
    return content


def _merge_layer(merged: dict[str, Any], kind: type[msgspec.Struct], layer: Mapping[str, Any], where: str) -> None:
    """Deep-merge `layer` into `merged`; every key must be a field of `kind`."""
    fields = fields_of(kind)
    for key, value in layer.items():
        if key not in fields:
            raise ConfigError(
                f"{where}: unknown key '{key}'{did_you_mean(key, fields)}; known: {', '.join(sorted(fields))}"
            )
        nested = struct_in(fields[key])
        if nested is not None and isinstance(value, Mapping):
            below = merged.setdefault(key, {})
            if not isinstance(below, dict):
                below = merged[key] = {}
            _merge_layer(below, nested, value, f"{where}, key '{key}'")
        elif odd := [number for number in _numbers(value) if not math.isfinite(number)]:
            raise ConfigError(f"{where}: '{key}' is {odd[0]}; give a finite number")
        else:
            merged[key] = value


def _numbers(value: Any) -> list[float]:
    """The numbers that a value is or, as a list, holds."""
    if isinstance(value, list | tuple):
        return [number for one in value for number in _numbers(one)]
    return [value] if isinstance(value, float) else []


def _nest(dotted: str, value: object) -> dict[str, Any]:
    first, _, rest = dotted.partition(".")
    return {first: _nest(rest, value)} if rest else {first: value}


def _parse_value(text: str) -> object:
    """A TOML value; anything that is not valid TOML counts as a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value
