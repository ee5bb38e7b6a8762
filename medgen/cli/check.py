"""`medgen check`: verify that artifacts are whole and undamaged."""

from __future__ import annotations

from typing import Annotated

import typer

from medgen.cli.options import console_of
from medgen.errors import DataError, MedgenError


def command(
    context: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...", help="Sets, models, saved states of trainings; - is a set on standard input."
        ),
    ],
) -> None:
    """Verify that sets and models are whole and undamaged.

    It also takes the saved states of trainings. Every value is read, checksums and digests are recomputed, and weights
    must be finite. Exit 65 if any file fails; each one is named.

    Examples:
      medgen check images.h5 vae.safetensors model.safetensors

    """
    from medgen.report.wholeness import verify

    console = console_of(context)
    failures: list[MedgenError] = []
    for file in files:
        try:
            console.say(f"{file}: {verify(file, console)}, whole")
        except MedgenError as error:
            failures.append(error)
            if len(files) > 1:
                console.error(str(error))
    console.report.update(files=len(files), failed=len(failures))
    if len(files) == 1 and failures:
        raise failures[0]
    if failures:
        raise DataError(f"{len(failures)} of {len(files)} files failed, each named above")
