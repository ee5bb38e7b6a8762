"""Checks of a command's outputs: none may be an input, or be written twice."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgen.errors import InputMissingError, UsageError

WRITTEN = ("output", "report", "log", "tensorboard", "pairs_png", "ratings")
"""Parameters that name what is written; all others that can be files name what is read."""
_READ = re.compile("SET|SOURCE|FILE|MODEL|NORMALIZED|MAPS|PLACE|VAE")
"""In the metavariables of these."""
_FINISHED = (0, 1)
"""Exit statuses of runs that made their output."""


@dataclass(frozen=True)
class _Place:
    """Something on the command line that is, or will be, a file or folder."""

    flag: str
    path: Path | None  # None: a standard stream
    facts: os.stat_result | None  # None: nothing is there yet

    def same(self, other: _Place) -> bool:
        if self.facts is not None and other.facts is not None:
            return os.path.samestat(self.facts, other.facts)
        return self.path is not None and self.path == other.path

    def within(self, other: _Place) -> bool:
        return None not in (self.path, other.path) and other.path in self.path.parents  # type: ignore[union-attr]


def check_here() -> None:
    """InputMissingError if the folder we are in was removed: libraries then end the process, and blame themselves."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise InputMissingError(
            "the current folder was removed, even if there is a new one of its name; cd to it"
        ) from None


def check_places(parameters: Sequence[Any], values: Mapping[str, Any]) -> None:
    """UsageError if two outputs are the same file, one lies in a folder that another replaces, or one is an input.

    `parameters` are the command's, as made by its parser, and `values` their values by name.
    """
    written = list(_written(parameters, values))
    for one, other in itertools.combinations(written, 2):
        if one.same(other):
            raise UsageError(f"{one.flag} and {other.flag} are the same file; give each its own")
    for one in written[1:]:
        if one.within(written[0]):
            raise UsageError(f"{one.flag}: lies in the folder that {written[0].flag} makes; put it elsewhere")
    for place in _read(parameters, values):
        for one in written:
            if one.facts is not None and one.same(place):
                raise UsageError(f"{one.flag}: is an input too ({place.flag}); write to another file")


def may_replace_report(report: Path, command: str) -> bool:
    """Whether the file is the report of an earlier failed run of this command, so that replacing it loses nothing."""
    try:
        facts = json.loads(report.read_text(encoding="utf-8")) if report.stat().st_size < 1 << 20 else None
    except (OSError, ValueError):
        return False
    return isinstance(facts, dict) and facts.get("command") == command and facts.get("exit_status", 0) not in _FINISHED


def _written(parameters: Sequence[Any], values: Mapping[str, Any]) -> Iterator[_Place]:
    """The output first; a training also writes its state beside it."""
    named = {parameter.name: parameter for parameter in parameters}
    for name in WRITTEN:
        value = values.get(name)
        if value is None:
            continue
        flag = max(named[name].opts, key=len)
        if name == "output" and str(value) == "-":
            yield _stream(1, "standard output")
        elif str(value) == "-":
            raise UsageError(f"{flag} -: name a file; standard output is for the result")
        else:
            yield _place(f"{flag} {value}", value)
            if name == "output" and "log" in named:
                yield _place(f"the state of the training, {value}.resume,", f"{value}.resume")


def _read(parameters: Sequence[Any], values: Mapping[str, Any]) -> Iterator[_Place]:
    for parameter in parameters:
        if parameter.name in WRITTEN:
            continue
        given = values.get(parameter.name)
        option = parameter.param_type_name == "option"
        for value in given if isinstance(given, list | tuple) else [given]:
            if not isinstance(value, str | Path):
                continue
            flag = f"{max(parameter.opts, key=len)} {value}" if option else f"the argument {value}"
            if parameter.metavar == "KEY=VALUE":
                yield _place(flag, str(value).partition("=")[2].strip("\"'"))
            elif isinstance(value, Path) or _READ.search(parameter.metavar or ""):
                yield _stream(0, "standard input") if value == "-" else _place(flag, value)


def _place(flag: str, value: str | Path) -> _Place:
    path, facts = None, None
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # what is not a path is met where it is used
        path = Path(value).resolve()
        facts = path.stat()
    return _Place(flag, path, facts)


def _stream(descriptor: int, flag: str) -> _Place:
    """A standard stream, which the shell may have redirected to a file."""
    facts = None
    with contextlib.suppress(OSError):
        facts = os.fstat(descriptor)
    return _Place(flag, None, facts if facts is not None and stat.S_ISREG(facts.st_mode) else None)
