"""`medgen check`: verify that artifacts are whole and undamaged."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from medgen.cli.console import Console
from medgen.cli.options import console_of
from medgen.errors import DataError, MedgenError


def command(
    context: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Sets, models, states of trainings; - is a set on standard input."),
    ],
) -> None:
    """Verify that sets and models are whole and undamaged.

    States of trainings too. Every value is read, checksums and digests are recomputed, and weights must be finite. Exit
    65 if any file fails; each one is named.

    Examples:
      medgen check images.h5 vae.safetensors model.safetensors

    """
    console = console_of(context)
    failures: list[MedgenError] = []
    for file in files:
        try:
            console.say(f"{file}: {_verify(file, console)}, whole")
        except MedgenError as error:
            failures.append(error)
            if len(files) > 1:
                console.error(str(error))
    console.report.update(files=len(files), failed=len(failures))
    if len(files) == 1 and failures:
        raise failures[0]
    if failures:
        raise DataError(f"{len(failures)} of {len(files)} files failed, each named above")


def _verify(file: str, console: Console) -> str:
    from medgen.report.contents import is_model, is_state

    if is_model(file):
        return _verify_model(Path(file))
    return _verify_state(Path(file)) if is_state(file) else _verify_set(file, console)


def _verify_model(path: Path) -> str:
    from medgen.artifacts.model_file import open_model

    model = open_model(path)
    model.verify()
    return f"model of kind {model.kind}"


def _verify_state(path: Path) -> str:
    from medgen.training.loop.resume import State

    state = State.open(path)
    state.tensors()
    checked = "" if state.checked else ", without checksums (medgen 0.1)"
    return f"state of {state.record.identity.command} after step {state.record.step}{checked}"


def _verify_set(file: str, console: Console) -> str:
    from medgen.artifacts.schema import ContentDigest
    from medgen.artifacts.sets import open_set

    with open_set(file) as reader, console.progress(None, "cases") as advance:
        digest = ContentDigest(reader.header)
        ids: set[str] = set()
        for case in reader:
            case.check()
            if case.id in ids:
                raise DataError(f"{file}: case {case.id} is in it twice")
            ids.add(case.id)
            digest.add(case)
            advance()
        tail, found = reader.tail, digest.tail(reader.tail.inputs)
        if (found.cases, found.slices, found.digest) != (tail.cases, tail.slices, tail.digest):
            raise DataError(f"{file}: damaged: its content does not match its digest")
        for told, is_so in ((tail.latent_mean, found.latent_mean), (tail.latent_std, found.latent_std)):
            # Sums differ between processors, and sets of medgen 0.1 may lack them.
            if told and not all(map(partial(math.isclose, rel_tol=1e-6, abs_tol=1e-9), told, is_so)):
                raise DataError(f"{file}: damaged: its latents do not have the mean and spread that it tells")
        return f"{reader.header.kind} set of {tail.cases} cases, {tail.slices} slices"
