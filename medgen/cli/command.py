"""A subcommand: its help under headings, the options common to all commands, and the report of how it ended."""

from __future__ import annotations

import errno
import json
import os
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from medgen import __version__
from medgen.cli.console import Console
from medgen.cli.outputs import check_here, check_places, may_replace_report
from medgen.errors import MedgenError, PipeClosed, StorageError, UnavailableError, UsageError
from medgen.models.options import COMPUTING

WITH_PAGE = {"evaluate": "Write everything as one page"}
"""Commands whose --report can be a page; they write it to `console.page`."""
CONFIGURATION, GENERAL = "Configuration", "General"
ORDER = {"Arguments": -2, "Options": -1, COMPUTING: 1, CONFIGURATION: 2, GENERAL: 3}
"""Headings of the help that come first and last."""
SHARED = ("force", "quiet", "verbose", "debug", "report", "help")
"""Options that stand under the last heading, whichever command has them."""
EXAMPLES = "\nExamples:\n"
"""What the last part of a command's docstring begins with."""
LONGEST = 300
"""Letters of a library's message that are shown: some quote all that a compiler says."""
_ClickError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


class Command(TyperCommand):
    """A subcommand, with the options common to all."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        text, _, examples = (self.help or "").partition(EXAMPLES)
        self.help, self.examples = text.rstrip(), textwrap.dedent(examples).splitlines()
        kinds, purpose = "json", "Write facts about this run as JSON"
        if self.name in WITH_PAGE:
            kinds, purpose = "html|json", f"{WITH_PAGE[self.name]}, or facts about this run as JSON"
        *switches, force, report = _common_options()
        report.metavar, report.help = f"FILE.{kinds}", f"{purpose}."
        self._takes_force = any(parameter.name == "force" for parameter in self.params)
        self.params += [*switches, *([] if self._takes_force else [force]), report]

    def records(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:
        """Arguments and options with their help, by heading, in the order of the headings."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            own = "Arguments" if parameter.param_type_name == "argument" else "Options"
            group = GENERAL if parameter.name in SHARED else getattr(parameter, "rich_help_panel", None)
            group, text = group or own, record[1]
            added = "" if group in (GENERAL, CONFIGURATION) else _no_default(parameter, text)
            groups.setdefault(group, []).append((record[0], text + added))
        return dict(sorted(groups.items(), key=lambda item: ORDER.get(item[0], 0)))

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write what the command does, and its examples line by line."""
        super().format_help_text(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                formatter.write("".join(f"{' ' * formatter.current_indent}{line}\n" for line in self.examples))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write them, each group under its heading."""
        for heading, records in self.records(ctx).items():
            with formatter.section(heading):
                formatter.write_dl(records)

    def invoke(self, ctx: Any) -> Any:
        """Run with a Console in `ctx.obj`, and write the report however the run ends."""
        check_here()
        check_places(self.params, ctx.params)
        quiet, verbose = ctx.params.pop("quiet"), ctx.params.pop("verbose")
        ctx.params.pop("debug")  # read from the arguments by `run`, which sees failures of parsing too
        report = ctx.params.pop("report")
        force = ctx.params["force"] if self._takes_force else ctx.params.pop("force")
        console = ctx.obj = Console(str(self.name), quiet, verbose)
        if report is None or not _first_process(self.params):
            return super().invoke(ctx)
        ending = Path(report).suffix.lower()
        if self.name in WITH_PAGE and ending not in (".html", ".json"):
            raise UsageError(f"--report {report}: end the name in .html for the page, or in .json for facts as JSON")
        if ending == ".html":
            if self.name not in WITH_PAGE:
                raise UsageError(f"--report {report}: '{self.name}' writes facts as JSON; give a name ending in .json")
            console.page = Path(report)
            return super().invoke(ctx)
        from medgen.artifacts.outputs.whole import atomic_file, check_output

        force = force or may_replace_report(Path(report), str(self.name))
        check_output(Path(report), force=force)
        started = time.monotonic()
        status, kind = 0, ""
        try:
            return super().invoke(ctx)
        except BaseException as error:
            status, kind = describe(error)[0], type(error).__name__
            raise
        finally:
            # No message: files are often named after patients, and errors quote what files hold.
            facts = {
                "command": self.name,
                "version": __version__,
                "exit_status": status,
                "error": kind,
                "seconds": round(time.monotonic() - started, 3),
                "warnings": console.warnings,
                **console.report,
            }
            with atomic_file(Path(report), force=force) as temporary:
                temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _common(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing report.")] = False,
    report: Annotated[str | None, typer.Option("--report")] = None,
) -> None:
    """Options that every command takes besides its own."""


def _no_default(parameter: Any, text: str) -> str:
    """Note to add to an optional option's help where nothing else says that it is optional."""
    takes_value = parameter.param_type_name == "option" and not parameter.is_flag
    return "  [default: none]" if takes_value and parameter.default is None and "[" not in text else ""


def _first_process(parameters: Sequence[Any]) -> bool:
    """Whether this process writes for all: of those that train together (only these keep a log), the first does."""
    return os.environ.get("RANK", "0") == "0" or all(parameter.name != "log" for parameter in parameters)


def _common_options() -> list[Any]:
    """As typer makes them: the classes of its options change with its versions."""
    builder = typer.Typer(add_completion=False)
    builder.command()(_common)
    return typer.main.get_command(builder).params


def describe(error: BaseException) -> tuple[int, str]:
    """Exit status and the one sentence for the user ("" for a silent end)."""
    if isinstance(error, MedgenError):
        return error.exit_code, str(error)
    if isinstance(error, typer.Exit):
        return error.exit_code, ""
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return 130, "interrupted"
    if isinstance(error, _ClickError):
        return 2, " ".join(error.format_message().split())
    if isinstance(error, BrokenPipeError):
        return PipeClosed.exit_code, ""
    if isinstance(error, OSError):
        cause = os.strerror(error.errno) if error.errno else str(error)
        if error.errno == errno.ENOSPC:
            cause += "; free some space, or set TMPDIR to a larger disk"
        return StorageError.exit_code, f"{error.filename}: {cause}" if error.filename else cause
    kinds = [kind.__name__ for kind in type(error).__mro__]  # of torch, which is not loaded for this
    cause = next(iter(str(error).splitlines()), "")[:LONGEST]
    if {"OutOfMemoryError", "MemoryError"} & {*kinds} or "can't allocate memory" in cause:
        where = "device memory" if "OutOfMemoryError" in kinds else "memory"
        return UnavailableError.exit_code, f"{where} is full; lower --batch-size, or train with loop.checkpoint"
    if "BackendCompilerFailed" in kinds:
        told = f"compiling the network failed ({cause}); install a C++ compiler or leave out loop.compile"
        return UnavailableError.exit_code, told
    return 70, f"internal error, please report it ({kinds[0]}: {cause}); run again with --debug to see where"
