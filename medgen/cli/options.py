"""Options shared by several commands, besides those of their structs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgen.cli.console import Console
from medgen.config import parse_setting
from medgen.errors import ConfigError, UsageError
from medgen.models.options import COMPUTING
from medgen.training.loop.options import TRAINING

InputSet = Annotated[str, typer.Argument(metavar="SET", help="A set: HDF5 or stream file, or - for standard input.")]
OutputSet = Annotated[
    str, typer.Option("--output", "-o", metavar="FILE", help="Where the set goes; - streams it to standard output.")
]
OutputFile = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where the result goes.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
Device = Annotated[
    str, typer.Option(metavar="auto|cpu|cuda[:i]", help="Where the network runs.", rich_help_panel=COMPUTING)
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="FILE[:STRENGTH]",
        help="An adapter of MODEL, from train-diffusion --lora or from peft; 1 is full strength; repeatable.",
    ),
]
KeepGoing = Annotated[
    bool, typer.Option("--keep-going", help="Leave out what fails, name each, and exit 1 at the end.")
]
Reference = Annotated[
    Path | None,
    typer.Option("--reference", metavar="SET", help="Real images that the measurement is learned from."),
]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Do part I of N (I from 0); N alone takes I from JOB_COMPLETION_INDEX.  [default: all]",
        rich_help_panel=COMPUTING,
    ),
]
LogFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE.jsonl", help="Write loss, rate and speed as JSON lines.", rich_help_panel=TRAINING),
]
TensorBoard = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Write the same for TensorBoard.", rich_help_panel=TRAINING),
]
CONTINUING = "Continuing"
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Start over even if a stopped training could continue.", rich_help_panel=CONTINUING),
]

ContinueWith = Annotated[
    list[str] | None,
    typer.Option(
        "--continue-with",
        metavar="KEY=VALUE",
        help="Continue from OUTPUT.resume with a changed option of the loop, or of processes; repeatable.",
        rich_help_panel=CONTINUING,
    ),
]
Finish = Annotated[
    bool,
    typer.Option(
        "--finish", help="Train no further, and write the model as it is in OUTPUT.resume.", rich_help_panel=CONTINUING
    ),
]


def console_of(context: typer.Context) -> Console:
    """The Console of this run."""
    console = context.obj
    return console if isinstance(console, Console) else Console(context.info_name or "")


def changes_of(continue_with: list[str] | None) -> dict[str, object]:
    """`--continue-with` by dotted key; ConfigError for options that cannot change during a training."""
    changes = dict(parse_setting(item, "--continue-with") for item in continue_with or ())
    for key in changes:
        if key != "processes" and not key.startswith("loop."):
            raise ConfigError(
                f"--continue-with {key}: only options of the loop, such as loop.steps, and processes can change on the "
                "way; train again with --fresh"
            )
    return changes


def listed(names: str | None) -> list[str] | None:
    """`A,B,C` -> its names; None if not given."""
    return [name.strip() for name in names.split(",")] if names else None


def parse_shard(text: str | None) -> tuple[int, int]:
    """`I/N`, or `N` with I from the environment of a Kubernetes Indexed Job -> (I, N); (0, 1) if not given."""
    import os

    if text is None:
        return 0, 1
    part, _, whole = text.rpartition("/")
    part = part or os.environ.get("JOB_COMPLETION_INDEX", "")
    if not (part.isdigit() and whole.isdigit() and int(part) < int(whole)):
        raise UsageError(f"--shard {text}: expected I/N with 0 <= I < N, or N with JOB_COMPLETION_INDEX set")
    return int(part), int(whole)


def check_destination(output: str, *, force: bool) -> None:
    """Refuse, before any work is done, outputs that would fail at the end: a terminal, an existing file, no folder."""
    from medgen.artifacts.outputs.whole import check_output
    from medgen.artifacts.sets import refuse_terminal

    if output == "-":
        refuse_terminal()
    else:
        check_output(Path(output), force=force)


def check_picture(path: str | Path, flag: str) -> None:
    """Refuse a name that promises another kind of picture than a PNG, which is what is written."""
    if Path(path).suffix.lower() in (".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".svg", ".pdf"):
        raise UsageError(f"{flag} {path}: the picture is a PNG; end its name in .png")
