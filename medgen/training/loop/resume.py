"""The state of an unfinished training, beside its output: `OUT.resume`, a safetensors file that appears whole."""

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
from medgen.errors import ConfigError, DataError, StorageError
from medgen.training.loop.distributed import cut

RESUME_SCHEMA = "medgen.resume/1"


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a training is: only the same one may go on."""

    version: str
    command: str
    seed: int
    config: dict[str, Any]
    data: dict[str, str]
    """Digests of the inputs by their id."""


class ResumeRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The metadata of a saved state."""

    step: int
    identity: Identity
    machine: str = ""
    """What it was trained on; "" in states of medgen 0.1."""
    schema: str = RESUME_SCHEMA


@dataclass(frozen=True)
class State:
    """An opened state of a training; tensors are read when asked for."""

    path: Path
    record: ResumeRecord
    header: TensorHeader

    @classmethod
    def open(cls, path: Path) -> State:
        """DataError if the file is no state of a training, damaged in its header, or cut short."""
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
        """All of them; DataError if one is damaged, or a weight is not finite."""
        with _fresh_start():
            tensors = read_tensors(self.path, self.header, self.header.tensors)
            if name := not_finite(_weights(tensors)):
                raise DataError(f"{self.path}: weight '{name}' is not finite")
        return tensors


def resume_path(output: Path) -> Path:
    """Where the state of the training that makes `output` lies."""
    return output.with_name(f"{output.name}.resume")


class ResumeFile:
    """Save, load and remove the state of the training that makes `output`."""

    def __init__(self, output: Path, identity: Identity, machine: str = "") -> None:
        self.path = resume_path(output)
        self.identity, self.machine = identity, machine

    def step(self) -> int | None:
        """Steps done in the saved state; None without one. ConfigError if it is of another training."""
        if not self.path.exists():
            return None
        record = State.open(self.path).record
        if differences := _differences(_as_json(record.identity), _as_json(self.identity)):
            raise ConfigError(
                f"{self.path}: belongs to another training, stopped after step {record.step} "
                f"({'; '.join(differences[:5])}); give its options to go on, or --fresh to start anew"
            )
        return record.step

    def save(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Replace the saved state; a kill at any moment leaves the old one or the new one.

        DataError for weights that are not finite, StorageError where there is no room: the old state is kept then.
        """
        if name := not_finite(_weights(tensors)):
            raise DataError(f"step {step}: weight '{name}' is not finite; lower --learning-rate ({self.kept()})")
        record = ResumeRecord(step, self.identity, self.machine)
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
        """Forget the saved state, and what a kill during a save may have left."""
        self.path.unlink(missing_ok=True)
        remove_abandoned(self.path)


def pack(model: nn.Module, optimizer: torch.optim.Optimizer, average: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Everything that training changes, as one flat dict of tensors."""
    packed = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    packed.update({f"average.{name}": tensor for name, tensor in average.items()})
    for index, moments in optimizer.state_dict()["state"].items():
        packed.update({f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()})
    return packed


def unpack(
    packed: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer, average: Mapping[str, Tensor]
) -> None:
    """Put what `pack` took back in its place."""
    state = model.state_dict()
    model.load_state_dict({name: cut(tensor, state[name]) for name, tensor in _below(packed, "model.").items()})
    for name, tensor in _below(packed, "average.").items():
        average[name].copy_(cut(tensor, average[name]))
    weights = optimizer.param_groups[0]["params"]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below(packed, "optimizer.").items():
        index, _, moment = name.partition(".")
        value = cut(tensor, weights[int(index)]) if tensor.ndim else tensor  # a scalar is a count of steps
        moments.setdefault(int(index), {})[moment] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _weights(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All but the optimizers' moments, which may overflow without harm."""
    return {
        name: tensor for name, tensor in packed.items() if not name.removeprefix("opponent.").startswith("optimizer.")
    }


@contextlib.contextmanager
def _fresh_start() -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"{error}; start anew with --fresh") from None


def _below(packed: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in packed.items() if name.startswith(prefix)}


def _as_json(identity: Identity) -> Any:
    return msgspec.json.decode(msgspec.json.encode(identity))


def _differences(then: Any, now: Any, where: str = "") -> list[str]:
    """Each leaf that is not the same, in words."""
    if isinstance(then, dict) and isinstance(now, dict):
        keys = sorted(then.keys() | now.keys())
        return [
            line
            for key in keys
            for line in _differences(then.get(key), now.get(key), f"{where}.{key}" if where else key)
        ]
    if then == now:
        return []
    if where.startswith("data."):
        return ["the input set or model is not the same"]
    return [f"{where.removeprefix('config.')} was {then}, is now {now}"]
