"""Flags from options structs: help, range and default of an option are written once, in its type.

    @takes(PreviewOptions)
    def command(context: typer.Context, given: Given, source: InputSet = "-") -> None:
        options = given.resolve(PreviewOptions)

gives the command a flag for each field declared with `config.option`, and --preset, --config, --set and --print-config.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from medgen.cli.app import COMMANDS
from medgen.cli.command import CONFIGURATION
from medgen.cli.flag import Flag, flags_of, flags_of_all
from medgen.cli.options import console_of
from medgen.config import Options, resolve, to_toml
from medgen.errors import ConfigError, UsageError

OptionsT = TypeVar("OptionsT", bound=Options)
Body = Callable[..., None]

LAYERS: dict[str, Any] = {
    "preset": Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Start from a preset (see medgen presets).", rich_help_panel=CONFIGURATION),
    ],
    "config": Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml", help="Options in tables, one table per command.", rich_help_panel=CONFIGURATION
        ),
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
class Given:
    """The options given on a command line, whichever struct they belong to."""

    command: str
    flags: Mapping[str, tuple[Flag, Any]]
    """By dotted key, the flag and its typed value; None if it was not given."""
    preset: str | None
    config: Path | None
    sets: tuple[str, ...]
    print_config: bool
    say: Callable[[str], object] = lambda message: None
    """Reports a message."""
    warn: Callable[[str], object] = lambda message: None
    """Reports a warning."""

    def resolve(
        self, kind: type[OptionsT] | Sequence[type[OptionsT]], more: Mapping[str, object] | None = None
    ) -> OptionsT:
        """Merge defaults, preset, file, `--set` and flags into `kind`; with --print-config print it and stop.

        Of several tagged kinds, the named one is used. `more`: by dotted key, values given to the command itself
        (None: not given).
        """
        known = {key: flags[0] for key, flags in flags_of_all([kind] if isinstance(kind, type) else kind).items()}
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
            say=self.say,
        )
        if self.print_config:
            typer.echo(to_toml(self.command, options), nl=False)
            raise typer.Exit
        return options

    def warn_unused(self, keys: Iterable[str], because: str) -> None:
        """Warn of each option, or table of options, among `keys` that was typed, though it has no effect `because`.

        A preset or a file may hold it: these serve other command lines too.
        """
        typed = {
            key: flag.as_typed(value) for key, (flag, value) in self.flags.items() if value is not None and value != []
        }
        typed |= {item.partition("=")[0].strip(): f"--set {item}" for item in self.sets}
        for name in (typed[one] for key in keys for one in typed if f"{one}.".startswith(f"{key}.")):
            self.warn(f"{name} has no effect {because}")

    def _check(self, flags: Mapping[str, Flag], values: Mapping[str, Any]) -> None:
        """UsageError for a flag given beside one that it replaces, and for a missing one."""
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


def takes(*kinds: type[Options], names: Iterable[str] = ()) -> Callable[[Body], Body]:
    """Give a command the flags of these structs; its parameter `given` holds what was typed.

    `names` of the structs are headings in the help, above the flags that only one struct has.
    """
    shared = flags_of_all(kinds)
    owners = {key: name for kind, name in zip(kinds, names, strict=False) for key in flags_of(kind)}
    headings = {key: owners.get(key, "") if len(flags) == 1 else "" for key, flags in shared.items()}

    def decorate(body: Body) -> Body:
        own = [one for one in inspect.signature(body, eval_str=True).parameters.values() if one.name != "given"]
        added = {flags[0].parameter: _annotated(flags, headings[key]) for key, flags in shared.items()} | LAYERS

        def command(context: typer.Context, **values: Any) -> None:
            typed = {key: (flags[0], values.pop(flags[0].parameter)) for key, flags in shared.items()}
            layers = [values.pop(name) for name in LAYERS]
            preset, config, sets, print_config = layers
            name, console = context.command.name or "", console_of(context)
            given = Given(name, typed, preset, config, tuple(sets or ()), print_config, console.say, console.warn)
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


def _annotated(flags: list[Flag], heading: str) -> Any:
    first = flags[0]
    option = typer.Option(
        *first.switches.split(" "),
        metavar=first.metavar,
        help=first.help([flag.default for flag in flags]),
        rich_help_panel=first.said.group or heading or None,
        autocompletion=first.completed if first.choices else None,
    )
    return Annotated[first.typed, option]
