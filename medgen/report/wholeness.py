"""Whether sets, models and states of trainings are whole and undamaged, as `medgen check` says."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

from medgen.artifacts.schema import ContentDigest
from medgen.artifacts.sets import open_set
from medgen.errors import DataError
from medgen.report.contents import is_model, is_state
from medgen.reporting import Reporter


def verify(file: str, reporter: Reporter) -> str:
    """Read all of a set, a model or the state of a training, and say what it is; DataError if it is damaged."""
    if is_model(file):
        return _verify_model(Path(file))
    return _verify_state(Path(file)) if is_state(file) else _verify_set(file, reporter)


def _verify_model(path: Path) -> str:
    from medgen.artifacts.model_file import open_model  # loads torch, which sets do without

    model = open_model(path)
    model.verify()
    return f"model of kind {model.kind}"


def _verify_state(path: Path) -> str:
    from medgen.training.loop.resume import State  # loads torch, which sets do without

    state = State.open(path)
    state.tensors()
    checked = "" if state.checked else ", without checksums (medgen 0.1)"
    return f"state of {state.record.identity.command} after step {state.record.step}{checked}"


def _verify_set(file: str, reporter: Reporter) -> str:
    with open_set(file) as reader, reporter.progress(None, "cases") as advance:
        digest = ContentDigest(reader.header)
        ids: set[str] = set()
        for case in reader:
            case.check()
            if case.id in ids:
                raise DataError(f"{file}: contains case {case.id} twice")
            ids.add(case.id)
            digest.add(case)
            advance()
        tail, found = reader.tail, digest.tail(reader.tail.inputs)
        if (found.cases, found.slices, found.digest) != (tail.cases, tail.slices, tail.digest):
            raise DataError(f"{file}: damaged: its content does not match its digest")
        for told, is_so in ((tail.latent_mean, found.latent_mean), (tail.latent_std, found.latent_std)):
            # Sums differ between processors, and sets of medgen 0.1 may lack them.
            if told and not all(map(partial(math.isclose, rel_tol=1e-6, abs_tol=1e-9), told, is_so)):
                raise DataError(f"{file}: damaged: its latents do not have the mean and spread that it states")
        return f"{reader.header.kind} set of {tail.cases} cases, {tail.slices} slices"
