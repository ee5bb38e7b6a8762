"""Flags from options structs: help, range and default of an option are written once, in its type.

    @takes(PreviewOptions)
    def command(context: typer.Context, given: Given, source: InputSet = "-") -> None:
        options = given.resolve(PreviewOptions)

gives the command a flag for each field declared with `config.option`, and --preset, --config, --set and --print-config.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
import typer

from medgen.cli.app import COMMANDS
from medgen.config import Described, Options, did_you_mean, resolve, to_toml
from medgen.errors import ConfigError, UsageError

OptionsT = TypeVar("OptionsT", bound=Options)
Body = Callable[..., None]

CONFIGURATION = "Configuration"
LAYERS: dict[str, Any] = {
    "preset": Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Start from a preset (see medgen presets).", rich_help_panel=CONFIGURATION),
    ],
    "config": Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Options by table, one table a command.", rich_help_panel=CONFIGURATION),
    ],
    "set": Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Set any option by its dotted name; repeatable.", rich_help_panel=CONFIGURATION
        ),
    ],
    "print_config": Annotated[
        bool, typer.Option("--print-config", help="Print all options as TOML and stop.", rich_help_panel=CONFIGURATION)
    ],
}
"""Where options come from besides their own flags; later layers win."""


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
        """Type of its value, without None and without what is said of it; a switch may have words for more."""
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
        """What typer parses it as; anything but numbers and switches is parsed by `value`."""
        if self.said.repeat:
            return list[str] | None
        kind = type(get_args(self.kind)[0]) if get_origin(self.kind) is Literal else self.kind  # of words or numbers
        return (kind if kind in (bool, int, float) else str) | None

    @property
    def metavar(self) -> str | None:
        """What stands for the value in help texts."""
        if self.said.metavar or self.kind is bool:
            return self.said.metavar or None
        if get_origin(self.kind) is Literal:
            return "|".join(str(choice) for choice in get_args(self.kind) if choice != "")
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

    def value(self, given: Any) -> Any:
        """What was given as the struct wants it; UsageError for no list of the right length, ConfigError otherwise."""
        if given is None or given == []:
            return None
        parsed = self._parsed(given)
        try:
            msgspec.convert(parsed, self.annotation)
        except msgspec.ValidationError as error:
            reason = str(error).replace("`", "").partition(" - at")[0]
            raise ConfigError(f"{self.name} {given}: {reason[0].lower()}{reason[1:]}") from None
        return parsed

    @property
    def name(self) -> str:
        """The long name alone."""
        return max(self.switches.partition("/")[0].split(), key=len)

    def _parsed(self, given: Any) -> Any:
        kind = self.kind
        if get_origin(kind) in (Union, UnionType):  # a word, or a list of numbers in its place
            kind = next(one for one in get_args(kind) if (get_origin(one) is tuple) == given.strip()[:1].isdigit())
        inner = get_args(kind)
        if get_origin(kind) is Literal and given not in inner:
            choices = [str(choice) for choice in inner if choice != ""]
            hint = did_you_mean(str(given), choices, f"choose from {', '.join(choices)}")
            raise ConfigError(f"{self.name} {given}{hint}")
        if get_origin(kind) is not tuple:
            return given
        words = given if isinstance(given, list) else [word.strip() for word in given.split(",")]
        item = _bare(inner[0])
        if item in (int, float):
            try:
                words = [item(word) for word in words]
            except ValueError:
                raise UsageError(f"{self.name} {given}: expected {self.metavar}") from None
            if inner[-1] is not Ellipsis and len(words) == 1:  # one number for all of a range
                words = words * len(inner)
        if inner[-1] is not Ellipsis and len(words) != len(inner):
            raise UsageError(f"{self.name} {given}: expected {self.metavar}")
        return words


@dataclass(frozen=True)
class Given:
    """What a command line says of options, whichever struct they belong to."""

    command: str
    flags: Mapping[str, tuple[Flag, Any]]
    """By dotted key: the flag and what was typed, None if it was not given."""
    preset: str | None
    config: Path | None
    sets: tuple[str, ...]
    print_config: bool

    def resolve(
        self, kind: type[OptionsT] | Sequence[type[OptionsT]], more: Mapping[str, object] | None = None
    ) -> OptionsT:
        """Merge defaults, preset, file, `--set` and flags into `kind`; with --print-config print it and stop.

        Of several tagged kinds, it is the one that is named. `more`: by dotted key, what the command itself was given
        (None: not given).
        """
        known: dict[str, Flag] = {}
        for one in [kind] if isinstance(kind, type) else kind:
            known |= flags_of(one)
        for key, (flag, typed) in self.flags.items():
            if typed is not None and typed != [] and key not in known:
                raise ConfigError(f"{flag.name} does not apply here; see 'medgen {self.command} --help'")
        values = {key: known[key].value(typed) for key, (_, typed) in self.flags.items() if key in known}
        self._check(known, values)
        options = resolve(
            kind,
            self.command,
            tables=COMMANDS,
            preset=self.preset,
            file=self.config,
            sets=self.sets,
            flags={**values, **{key: value for key, value in (more or {}).items() if value is not None}},
        )
        if self.print_config:
            typer.echo(to_toml(self.command, options), nl=False)
            raise typer.Exit
        return options

    def _check(self, flags: Mapping[str, Flag], values: Mapping[str, Any]) -> None:
        """UsageError for flags of which one takes the place of another, and for one that is missing."""
        for key, value in values.items():
            flag = flags[key]
            others = [flags[other].name for other in flag.said.instead_of if values.get(other) is not None]
            if others and isinstance(value, list):
                raise UsageError(
                    f"{flag.name} {self.flags[key][1]} takes the place of {others[0]}; leave out {others[0]}"
                )
            layers = self.preset, self.config, self.sets
            if flag.default is msgspec.NODEFAULT and value is None and not any(layers):
                raise UsageError(f"{flag.name} is missing; give {flag.name} {flag.metavar}")


def takes(*kinds: type[Options]) -> Callable[[Body], Body]:
    """Give a command the flags of these structs; its parameter `given` tells what was typed."""
    shared: dict[str, list[Flag]] = {}
    for kind in kinds:
        for key, flag in flags_of(kind).items():
            shared.setdefault(key, []).append(flag)

    def decorate(body: Body) -> Body:
        own = [one for one in inspect.signature(body, eval_str=True).parameters.values() if one.name != "given"]
        added = {flags[0].parameter: _annotated(flags) for flags in shared.values()} | LAYERS

        def command(context: typer.Context, **values: Any) -> None:
            typed = {key: (flags[0], values.pop(flags[0].parameter)) for key, flags in shared.items()}
            layers = [values.pop(name) for name in LAYERS]
            given = Given(context.command.name or "", typed, layers[0], layers[1], tuple(layers[2] or ()), layers[3])
            body(context, given=given, **values)

        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
        for name, annotation in added.items():
            default = False if name == "print_config" else None
            parameters.append(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            )
        command.__doc__, command.__module__ = body.__doc__, body.__module__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        return command

    return decorate


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


def _annotated(flags: list[Flag]) -> Any:
    first = flags[0]
    option = typer.Option(
        *first.switches.split(" "),
        metavar=first.metavar,
        help=first.help([flag.default for flag in flags]),
        rich_help_panel=first.said.group or None,
    )
    return Annotated[first.typed, option]


def _bare(annotation: Any) -> Any:
    """The type without None and Annotated."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        inner = [one for one in get_args(annotation) if one is not type(None)]
        return _bare(inner[0]) if len(inner) == 1 else annotation
    return annotation


def _metas(annotation: Any) -> list[msgspec.Meta]:
    """All that is said of a type, of itself or beside None."""
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
