"""Options that several commands share, and how they become an options struct."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from medgen.cli.app import COMMANDS
from medgen.cli.console import Console
from medgen.config import Options, parse_setting, resolve, to_toml
from medgen.errors import ConfigError, UsageError
from medgen.models.options import COMPUTING
from medgen.training.loop.options import TRAINING

OptionsT = TypeVar("OptionsT", bound=Options)

InputSet = Annotated[str, typer.Argument(metavar="[SET]", help="A set: HDF5 or stream file, or - for standard input.")]
OutputSet = Annotated[
    str, typer.Option("--output", "-o", metavar="FILE", help="Where the set goes; - streams it to standard output.")
]
OutputFile = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where the result goes.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of everything random.  [default: 0]")]
Device = Annotated[
    str, typer.Option(metavar="auto|cpu|cuda[:i]", help="Where the network runs.", rich_help_panel=COMPUTING)
]
Preset = Annotated[
    str | None, typer.Option("--preset", metavar="NAME", help="Start from a preset (see medgen presets).")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE.toml", help="Options by table, one table a command.")
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set any option by its dotted name; repeatable.")
]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print all options as TOML and stop.")]
KeepGoing = Annotated[
    bool, typer.Option("--keep-going", help="Leave out what fails, name each, and exit 1 at the end.")
]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Do part I of N (from 0); a bare N takes I from JOB_COMPLETION_INDEX.  [default: all]",
        rich_help_panel=COMPUTING,
    ),
]
CaseSplit = Annotated[
    str | None, typer.Option("--split", metavar="NAME", help="Only the cases of this split (train, val, test).")
]
ShownSplit = Annotated[
    str | None, typer.Option("--split", metavar="train|val|test", help="Only the cases of this split.")
]
Precision = Annotated[str | None, typer.Option("--precision", metavar="auto|float32|bfloat16", help="Of the networks.")]
EMA = Annotated[bool | None, typer.Option("--ema/--no-ema", help="Averaged weights, or the last.  [default: ema]")]
SamplingSteps = Annotated[
    int | None, typer.Option("--steps", metavar="N", help="Steps from noise to data.  [default: 20]")
]
Sampler = Annotated[
    str | None,
    typer.Option("--sampler", metavar="NAME", help="unipc, dpm-solver++, ddim, ddpm, euler or heun.  [default: unipc]"),
]
Times = Annotated[
    str | None,
    typer.Option(
        "--times",
        metavar="log-snr|karras|angle|trailing|T,T,...",
        help="What is equal between steps; or falling times, from noise (large) to data (0), instead of --steps.",
    ),
]
Eta = Annotated[float | None, typer.Option("--eta", metavar="ETA", help="Fresh noise of ddim, 0 to 1.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", metavar="N", help="Samples at once.")]
SliceBatch = Annotated[int | None, typer.Option("--batch-size", metavar="N", help="Slices at once.")]
LogFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE.jsonl", help="Write loss, rate and speed as JSON lines.", rich_help_panel=TRAINING),
]
TensorBoard = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Write the same for TensorBoard.", rich_help_panel=TRAINING),
]
CONTINUING = "Going on"
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Start anew even if a stopped training could go on.", rich_help_panel=CONTINUING),
]

ContinueWith = Annotated[
    list[str] | None,
    typer.Option(
        "--continue-with",
        metavar="KEY=VALUE",
        help="Go on from OUTPUT.resume with another value from there: an option of the loop, or processes; repeatable.",
        rich_help_panel=CONTINUING,
    ),
]
Finish = Annotated[
    bool,
    typer.Option(
        "--finish", help="Train no further: write the model as OUTPUT.resume has it.", rich_help_panel=CONTINUING
    ),
]


def console_of(context: typer.Context) -> Console:
    """The Console of this run."""
    console = context.obj
    return console if isinstance(console, Console) else Console(context.info_name or "")


def configure(
    context: typer.Context,
    kind: type[OptionsT],
    flags: Mapping[str, object],
    preset: str | None,
    config: Path | None,
    sets: list[str] | None,
    print_config: bool,
) -> OptionsT:
    """Merge preset, file, `--set` and `flags` (dotted keys; None: not given) into `kind`; print it if asked."""
    command = context.command.name or ""
    options = resolve(kind, command, tables=COMMANDS, preset=preset, file=config, sets=sets or (), flags=flags)
    if print_config:
        typer.echo(to_toml(command, options), nl=False)
        raise typer.Exit
    return options


def changes_of(continue_with: list[str] | None) -> dict[str, object]:
    """`--continue-with` by dotted key; ConfigError for what cannot change on the way."""
    changes = dict(parse_setting(item, "--continue-with") for item in continue_with or ())
    for key in changes:
        if key != "processes" and not key.startswith("loop."):
            raise ConfigError(
                f"--continue-with {key}: only options of the loop, such as loop.steps, and processes can change on the "
                "way; train anew with --fresh"
            )
    return changes


def listed(names: str | None) -> list[str] | None:
    """`A,B,C` -> its names; None if not given."""
    return [name.strip() for name in names.split(",")] if names else None


def parse_times(text: str | None, *steps: int | None) -> str | list[float] | None:
    """`T,T,...` -> numbers, where `steps` are not given too; the name of a spacing as it is; None if not given."""
    if text is None or not text.strip()[:1].isdigit():
        return text
    if any(given is not None for given in steps):
        raise UsageError(f"--times {text}: the times themselves say how many steps there are; leave out --steps")
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--times {text}: expected a spacing, or times such as 999,500.5,100") from None


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
    """Refuse, before any work is done, what would fail at the end: a terminal, an existing file, no folder."""
    from medgen.artifacts.outputs.whole import check_output
    from medgen.artifacts.sets import refuse_terminal

    if output == "-":
        refuse_terminal()
    else:
        check_output(Path(output), force=force)
