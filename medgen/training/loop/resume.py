"""The state of an unfinished training, beside its output: `OUT.resume`, a safetensors file that appears whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from medgen.artifacts.atomic import atomic_file
from medgen.errors import ConfigError, DataError
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


class _Record(msgspec.Struct, frozen=True):
    step: int
    identity: Identity
    schema: str = RESUME_SCHEMA


class ResumeFile:
    """Save, load and remove the state of the training that makes `output`."""

    def __init__(self, output: Path, identity: Identity) -> None:
        self.path = output.with_name(f"{output.name}.resume")
        self.identity = identity

    def step(self) -> int | None:
        """Steps done in the saved state; None without one. ConfigError if it is of another training."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                record = msgspec.json.decode((file.metadata() or {})["medgen"], type=_Record)
        except (SafetensorError, OSError, KeyError, msgspec.DecodeError) as error:
            raise DataError(f"{self.path}: unusable state of a training ({error}); start anew with --fresh") from None
        if differences := _differences(_as_json(record.identity), _as_json(self.identity)):
            raise ConfigError(
                f"{self.path}: belongs to another training, stopped after step {record.step} "
                f"({'; '.join(differences[:5])}); give its options to go on, or --fresh to start anew"
            )
        return record.step

    def save(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Replace the saved state; a kill at any moment leaves the old one or the new one."""
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {"medgen": msgspec.json.encode(_Record(step, self.identity), order="sorted").decode()}
        with atomic_file(self.path, force=True) as temporary:
            save_file(plain, temporary, metadata=metadata)

    def load(self) -> dict[str, Tensor]:
        """All tensors of the saved state."""
        with safe_open(self.path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)

    def remove(self) -> None:
        """Forget the saved state, and what a kill during a save may have left."""
        self.path.unlink(missing_ok=True)
        for partial in self.path.parent.glob(f".{self.path.name}.*.partial"):
            partial.unlink(missing_ok=True)


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
