"""Several processes started by torchrun, as one training."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from medgen.errors import UsageError


@dataclass(frozen=True)
class World:
    """One process among all; alone unless torchrun says otherwise."""

    rank: int = 0
    size: int = 1
    _messages: Any = None
    """Group on the CPU for small messages, so that a GPU need not be waited for."""

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        message = torch.tensor([int(flag)])
        dist.all_reduce(message, op=dist.ReduceOp.MAX, group=self._messages)
        return bool(message.item())

    def mean(self, values: Tensor) -> Tensor:
        """Mean over all processes of a tensor on the CPU."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total, group=self._messages)
        return total / self.size

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier(group=self._messages)


@contextlib.contextmanager
def world(device: torch.device) -> Iterator[tuple[World, torch.device]]:
    """Join the processes that torchrun started; yields the world and this process's device."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(), device
        return
    try:
        rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    except (KeyError, ValueError):
        raise UsageError(
            "WORLD_SIZE is set but RANK or LOCAL_RANK is not; start several processes with torchrun"
        ) from None
    if device.type == "cuda":
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(rank, size, dist.new_group(backend="gloo")), device
    finally:
        dist.destroy_process_group()
