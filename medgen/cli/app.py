"""The `medgen` command: imports a subcommand's file only when needed, and turns every outcome into an exit status."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

from medgen import __version__
from medgen.cli.command import Command, describe
from medgen.cli.console import Console, Unfailing
from medgen.config import did_you_mean
from medgen.errors import PipeClosed, Terminated, UsageError
from medgen.memory import keep_freed_memory
from medgen.processors import share_processors
from medgen.visible import visible, visible_lines

# In the order of the work. Purposes are listed here so that `medgen --help` imports none of the commands.
COMMANDS = {
    "phantom": "Make procedural images with known truth, as a hospital would hand them over.",
    "preprocess": "Turn DICOM, NIfTI or PNG/JPG files, folders and ZIPs into an image set.",
    "train-vae": "Train the autoencoder that compresses images to latents.",
    "extract-latents": "Encode an image set into a latent set.",
    "train-diffusion": "Train the diffusion model on a latent (or image) set.",
    "merge-adapter": "Write a model with its adapters in it.",
    "generate": "Sample images under chosen conditions.",
    "interpolate": "Make thin slices of thick ones, at any smaller spacing.",
    "normalize": "Make the nearest normal version of every image.",
    "anomaly-map": "Map and score where images differ from their normal versions.",
    "evaluate": "Measure images: fidelity, copies, conditions, masks, utility, reconstruction and more.",
    "export": "Write a set as files, an adapter for peft, or a model for diffusers.",
    "preview": "Draw a labelled contact sheet of a set.",
    "rate": "Let experts rate images in the browser.",
    "train-selector": "Learn from ratings how good an image is.",
    "select": "Keep the best images of a set, or those that show what was asked for.",
    "align": "Align a diffusion model with what experts like.",
    "info": "Show what a set or model holds and where it came from.",
    "check": "Verify that sets and models are whole and undamaged.",
    "merge": "Join shards or sets into one.",
    "presets": "List the presets, or print one.",
}


class LazyGroup(TyperGroup):
    """The subcommands, each imported only when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import the file of `cmd_name` and build the command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"medgen.cli.{cmd_name.replace('-', '_')}")
        builder = typer.Typer(add_completion=False, rich_markup_mode=None)
        builder.command(cmd_name, cls=Command, no_args_is_help=False)(module.command)
        return typer.main.get_command(builder)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a closed pipe raises our own exception, before the parser exits with 1 because of it."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise PipeClosed from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; for an unknown one, suggest the nearest name."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            hint = did_you_mean(args[0], COMMANDS, "see 'medgen --help'")
            raise UsageError(f"no command '{args[0]}'{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List names and purposes without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(
    name="medgen",
    cls=LazyGroup,
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"medgen {__version__}")
        raise typer.Exit


@app.callback()
def medgen(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Generative models of medical images, as small commands that chain in pipes.

    Inputs and outputs default to - (the standard streams). 'medgen COMMAND --help' tells more.
    """


def main() -> None:
    """Run the command line of this process."""
    _open_closed_streams()
    keep_freed_memory()
    share_processors()
    warnings.showwarning = _show_warning
    status = run(sys.argv[1:])
    try:
        sys.stderr.flush()
    except OSError:  # what could not be told does not change the status either
        _silence(sys.stderr)
    sys.exit(status)


def _open_closed_streams() -> None:
    """Open the standard streams that our caller has closed, or the next files opened would get their numbers.

    What libraries print would then be written into an output. Input is empty, output fails, and messages are lost.
    """
    for name, mode, flags in (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, flags)  # the lowest number that is free, which is that of the stream
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", errors="replace"))


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Escape libraries' warnings for the terminal, since they may quote file contents."""
    Unfailing(sys.stderr).write(f"medgen: warning: {visible(str(message))}\n")


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status; every error becomes one line on stderr."""
    name = next((word for word in arguments if word in COMMANDS), "")
    try:
        with _terminable():
            status = app(args=list(arguments), prog_name="medgen", standalone_mode=False)
            sys.stdout.flush()
            return int(status or 0)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 0
    except BaseException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(getattr(error, "message", ""), err=True)
            return UsageError.exit_code
        try:
            sys.stdout.flush()
        except OSError:  # a closed pipe, a full disk: the interpreter would fail over it once more, with 120
            _silence(sys.stdout)
        if "--debug" in arguments and not isinstance(error, BrokenPipeError | PipeClosed):
            import traceback

            Unfailing(sys.stderr).write(visible_lines(traceback.format_exc()))
        status, message = describe(error)
        if message:
            Console(name).error(message)
        return status


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Make SIGTERM raise, so that `finally` blocks remove temporary files; a destructor loses neither it nor Ctrl-C.

    Python prints an exception raised in a destructor and continues, so it is raised again a moment later.
    """
    lost: list[BaseException] = []

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated("terminated")

    def again(number: int, frame: FrameType | None) -> None:
        raise lost.pop()

    def ignored(report: sys.UnraisableHookArgs) -> None:
        if isinstance(report.exc_value, KeyboardInterrupt | Terminated):
            lost.append(report.exc_value)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
        else:
            hook(report)

    hook, sys.unraisablehook = sys.unraisablehook, ignored
    before = {number: signal.signal(number, act) for number, act in ((signal.SIGTERM, stop), (signal.SIGALRM, again))}
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _silence(stream: TextIO) -> None:
    """Keep the interpreter from failing again when it flushes the closed pipe, or whatever it is, at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    main()
