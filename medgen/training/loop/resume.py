"""The state of an unfinished training, beside its output: `OUT.resume`, a safetensors file written atomically."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from medgen.artifacts.outputs.partial import remove_abandoned
from medgen.artifacts.outputs.whole import atomic_file
from medgen.artifacts.tensors.file import not_finite, read_tensors, write_tensors
from medgen.artifacts.tensors.header import TensorHeader, read_header
from medgen.errors import DataError, StorageError
from medgen.training.loop.distributed import cut

RESUME_SCHEMA = "medgen.resume/1"
DISCRIMINATOR = "opponent."
"""What names of its tensors begin with; states of medgen 0.1 call it so too."""


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What identifies a training: a state can be resumed only by the same training."""

    version: str
    command: str
    seed: int
    config: dict[str, Any]
    data: dict[str, str]
    """Digests of the inputs, by id."""


class Progress(msgspec.Struct, frozen=True):
    """How far a training has come."""

    step: int = 0
    samples: int | None = None
    """Samples taken so far; None (in states of medgen 0.1): all steps had the present size."""
    left_out: tuple[int, ...] = ()
    """Numbers of the steps, from 0, that changed no weight because a gradient was not finite."""


class ResumeRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The metadata of a saved state."""

    step: int
    identity: Identity
    machine: str = ""
    """What it was trained on; "" in states of medgen 0.1."""
    samples: int | None = None
    left_out: tuple[int, ...] = ()
    earlier: tuple[dict[str, Any], ...] = ()
    """Earlier settings: `until` which step, and the values that options had."""
    log: str = ""
    """The id under which its log was begun; "" in states of medgen 0.1."""
    schema: str = RESUME_SCHEMA

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        return Progress(self.step, self.samples, self.left_out)


@dataclass(frozen=True)
class State:
    """An opened state of a training; tensors are read when asked for."""

    path: Path
    record: ResumeRecord
    header: TensorHeader

    @classmethod
    def open(cls, path: Path) -> State:
        """DataError if the file is not the state of a training, damaged in its header, or cut short."""
        with _fresh_start():
            header = read_header(path)
            try:
                return cls(path, msgspec.convert(header.facts, ResumeRecord), header)
            except msgspec.ValidationError as error:
                raise DataError(f"{path}: not the state of a training: {error}") from None

    @property
    def checked(self) -> bool:
        """Whether damage to the tensors would be noticed; states of medgen 0.1 have no checksums."""
        return self.header.checksums is not None

    def tensors(self) -> dict[str, Tensor]:
        """All tensors; DataError if one is damaged, or a weight is not finite."""
        with _fresh_start():
            tensors = read_tensors(self.path, self.header, self.header.tensors)
            if name := not_finite(_weights(tensors)):
                raise DataError(f"{self.path}: weight '{name}' is not finite")
        return tensors


def resume_path(output: Path) -> Path:
    """Path of the state of the training that makes `output`."""
    return output.with_name(f"{output.name}.resume")


@dataclass(frozen=True)
class ResumeFile:
    """Save, load and remove the state of the training that makes `output`."""

    output: Path
    identity: Identity
    machine: str = ""
    earlier: tuple[dict[str, Any], ...] = ()
    log: str = ""

    @property
    def path(self) -> Path:
        """Path of the state."""
        return resume_path(self.output)

    def step(self) -> int:
        """Steps done in the saved state; 0 without one."""
        return State.open(self.path).record.step if self.path.exists() else 0

    def save(self, tensors: Mapping[str, Tensor], progress: Progress) -> None:
        """Replace the saved state; a kill at any moment leaves either the old or the new one.

        DataError for weights that are not finite, StorageError if the disk is full; both leave the old state in place.
        """
        if name := not_finite(_weights(tensors)):
            raise DataError(
                f"step {progress.step}: weight '{name}' is not finite; continue at a lower rate with --continue-with "
                f"loop.learning_rate=R ({self.kept()})"
            )
        record = ResumeRecord(
            identity=self.identity,
            machine=self.machine,
            earlier=self.earlier,
            log=self.log,
            **msgspec.structs.asdict(progress),
        )
        try:
            with atomic_file(self.path, force=True) as temporary:
                write_tensors(temporary, tensors, msgspec.to_builtins(record))
        except StorageError as error:
            raise StorageError(f"{error} ({self.kept()})") from error

    def load(self) -> dict[str, Tensor]:
        """All tensors of the saved state; DataError if it is damaged."""
        return State.open(self.path).tensors()

    def kept(self) -> str:
        """What is left of a training that fails, in words."""
        step = self.step()
        return f"the state after step {step} is kept in {self.path}" if step else "no state had been saved yet"

    def remove(self) -> None:
        """Delete the saved state, and what a kill during a save may have left."""
        self.path.unlink(missing_ok=True)
        remove_abandoned(self.path)


def pack(model: nn.Module, optimizer: torch.optim.Optimizer, average: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Everything that training changes, in one flat dict of tensors; weights that are frozen are not among it."""
    packed = {f"model.{name}": tensor for name, tensor in _trained(model).items()}
    packed.update({f"average.{name}": tensor for name, tensor in average.items()})
    for index, moments in optimizer.state_dict()["state"].items():
        packed.update({f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()})
    return packed


def unpack(
    packed: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer, average: Mapping[str, Tensor]
) -> None:
    """Restore what `pack` collected; DataError if anything that is trained is missing."""
    state, saved = model.state_dict(), below(packed, "model.")
    if missing := [name for name in _trained(model) if name not in saved]:
        raise DataError(f"the saved state lacks the weight '{missing[0]}'; start over with --fresh")
    model.load_state_dict({**state, **{name: cut(tensor, state[name]) for name, tensor in saved.items()}})
    averaged = below(packed, "average.") or below(packed, "model.")  # without a saved average, start from the weights
    for name, tensor in average.items():
        tensor.copy_(cut(averaged[name], tensor))
    weights = optimizer.param_groups[0]["params"]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in below(packed, "optimizer.").items():
        index, _, moment = name.partition(".")
        value = _laid_as(weights[int(index)], tensor) if tensor.ndim else tensor  # a scalar is a count of steps
        moments.setdefault(int(index), {})[moment] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _laid_as(weight: Tensor, moment: Tensor) -> Tensor:
    """A moment in the memory layout of its weight, which fused optimizers take for granted."""
    moment = cut(moment, weight)
    return moment if moment.stride() == weight.stride() else torch.empty_like(weight, dtype=moment.dtype).copy_(moment)


def _trained(model: nn.Module) -> dict[str, Tensor]:
    """The state dict without weights that are frozen, which are known from elsewhere."""
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def _weights(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors but the optimizers' moments, which may overflow without harm."""
    return {
        name: tensor for name, tensor in packed.items() if not name.removeprefix(DISCRIMINATOR).startswith("optimizer.")
    }


@contextlib.contextmanager
def _fresh_start() -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"{error}; start over with --fresh") from None


def below(packed: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by the rest of their names."""
    """Those whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in packed.items() if name.startswith(prefix)}
