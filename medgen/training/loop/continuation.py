"""Resuming a training that was stopped: unchanged, with requested changes, or by finishing at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from medgen.config import Options, completed
from medgen.errors import ConfigError, InputMissingError, UsageError
from medgen.training.loop.resume import Identity, Progress, ResumeFile, State

PROCESSES = "processes"
VERSION = "version"
"""Of medgen; any newer one goes on with a state, and its model says that it did."""
IMPLIED = {"loop.vae_precision": "loop.precision", "loop.sharded": PROCESSES}
"""What changes along with something else."""


@dataclass(frozen=True)
class Wish:
    """What the user asks to do with a saved state."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    """New values, by dotted key, for options of the loop and for `processes`, in force from here on."""
    finish: bool = False
    """Train no further: write the model as it is."""

    def check(self, processes: int, *, fresh: bool) -> None:
        """UsageError if the wish contradicts itself, a fresh start, or the number of processes."""
        if fresh and (self.finish or self.changes):
            raise UsageError("--fresh would forget the saved state; leave it out, or --finish and --continue-with")
        if self.finish and self.changes:
            raise UsageError("--finish trains no further; leave out --continue-with")
        asked = self.changes.get(PROCESSES, processes)
        if asked != processes:
            raise UsageError(
                f"--continue-with {PROCESSES}={asked}: the training runs in {processes}; start {asked} with torchrun"
            )


class Change(NamedTuple):
    """One setting that differs from before."""

    name: str
    was: Any
    now: Any

    def __str__(self) -> str:
        if self.name.startswith("data."):
            return "the input set or model is not the same"
        return f"{self.name} was {self.was}, is now {self.now}"


@dataclass(frozen=True)
class Continuation:
    """Where a training stands when it begins or goes on, and what led there."""

    config: dict[str, Any]
    progress: Progress = field(default_factory=Progress)
    earlier: tuple[dict[str, Any], ...] = ()
    log: str = ""
    finish: bool = False
    changes: tuple[Change, ...] = ()

    def steps(self, asked: int) -> int:
        """Total number of steps; ConfigError if more are done than were asked for."""
        if not self.finish and asked < self.progress.step:
            raise ConfigError(f"loop.steps = {asked}, but {self.progress.step} steps are done; give more, or --finish")
        return self.progress.step if self.finish else asked

    def told(self, asked: int) -> str:
        """Where it resumes and what has changed, in words."""
        how = f" ({_told(self.changes)})" if self.changes else ""
        return f"{'finishing' if self.finish else 'going on'} after step {self.progress.step} of {asked}{how}"

    @property
    def recorded(self) -> dict[str, Any]:
        """The configuration for the provenance, with earlier settings and how many of all steps were done."""
        facts: dict[str, Any] = {"earlier": list(self.earlier)} if self.earlier else {}
        if self.finish:
            facts["finished_after"] = self.progress.step
        return {**self.config, **facts}


def continuation(resume: ResumeFile, wish: Wish, kind: type[Options]) -> Continuation:
    """Combine the saved state, if there is one, with the present training, of options of `kind`, and the wish.

    A state of an older version counts as one with the defaults of the options that are newer.
    ConfigError if the state is of another training, InputMissingError if there is none but the wish needs one.
    """
    if not resume.path.exists():
        if wish.finish or wish.changes:
            flag = "--finish" if wish.finish else "--continue-with"
            raise InputMissingError(f"{resume.path}: there is no saved state to continue from; leave out {flag}")
        return Continuation(resume.identity.config)
    record = State.open(resume.path).record
    now = resume.identity
    then = replace(record.identity, config=completed(kind, record.identity.config, now.config))
    changes = tuple(_changes(_as_json(then), _as_json(now)))
    allowed = [change for change in changes if change.name == VERSION]
    allowed += [change for change in changes if wish.finish and change.name.startswith(("loop.", PROCESSES))]
    allowed += [change for change in changes if IMPLIED.get(change.name, change.name) in wish.changes]
    if refused := [change for change in changes if change not in allowed]:
        raise ConfigError(_refusal(resume, record.step, refused))
    if wish.finish:
        return Continuation(record.identity.config, record.progress, record.earlier, record.log, finish=True)
    earlier = record.earlier
    if changes:
        earlier = (*earlier, {"until": record.step, **{change.name: change.was for change in changes}})
    return Continuation(resume.identity.config, record.progress, earlier, record.log, changes=changes)


def _refusal(resume: ResumeFile, step: int, refused: list[Change]) -> str:
    ways = "give its options to continue, or --fresh to start over"
    keys = {IMPLIED.get(change.name, change.name): change.now for change in refused}
    if all(key == PROCESSES or key.startswith("loop.") for key in keys):
        flags = " ".join(f"--continue-with {key}={_text(value)}" for key, value in keys.items())
        ways = f"give its options to continue, {flags} to change that from there on, or --fresh to start over"
    return f"{resume.path}: belongs to another training, stopped after step {step} ({_told(refused)}); {ways}"


def _told(changes: Sequence[Change]) -> str:
    """At most five of the changes in words, without those that merely follow from others."""
    leading = [change for change in changes if change.name not in IMPLIED] or changes
    return "; ".join(list(dict.fromkeys(map(str, leading)))[:5])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _as_json(identity: Identity) -> Any:
    plain = msgspec.json.decode(msgspec.json.encode(identity))
    config = plain.pop("config")
    return {**plain, **config, PROCESSES: config.get("loop", {}).pop(PROCESSES, 1)}


def _changes(then: Any, now: Any, name: str = "") -> Iterator[Change]:
    """Each leaf that differs."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in sorted(then.keys() | now.keys()):
            yield from _changes(then.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif then != now:
        yield Change(name, then, now)
