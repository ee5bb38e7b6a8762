"""Several processes started by torchrun, as one training."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medgen.errors import UnavailableError, UsageError
from medgen.nets.units import units
from medgen.training.data.step import Batch, Step


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

    def all(self, value: int) -> list[int]:
        """The number that each process gives, by rank."""
        if self.size == 1:
            return [value]
        gathered = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(gathered, torch.tensor([value]), group=self._messages)
        return [int(number) for number in gathered]

    def mean(self, values: Tensor) -> Tensor:
        """Mean over all processes of a tensor on the CPU."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total, group=self._messages)
        return total / self.size

    def collect(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Put sharded tensors together on the CPU of the first process; all must call, the others get nothing."""
        collected = {}
        for name, tensor in tensors.items():  # one by one: all of them may be more than a GPU holds
            full = whole(tensor).cpu() if _sharded(tensor) else tensor
            if self.first:
                collected[name] = full
        return collected

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
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):  # gloo's have no class of their own
            raise
        raise UnavailableError(
            "another process of this training is gone; why, it says itself; run the same command again to go on"
        ) from error
    finally:
        dist.destroy_process_group()


class AsModule(nn.Module):
    """A loss as the forward pass of the network it trains, because that is what DDP and FSDP hook into."""

    def __init__(self, network: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network
        self.function = function

    def forward(self, batch: Batch, step: Step) -> Any:
        """Whatever the loss returns."""
        return self.function(batch, step)


def replicate(
    network: nn.Module, loss: Callable[..., Any], world: World, idle_weights: bool = False
) -> Callable[..., Any]:
    """Let every process hold the network and, after the backward pass of the loss that is returned, the mean gradient.

    `idle_weights`: weights may have no part in the loss, others in each process.
    """
    if world.size == 1:
        return loss
    return DistributedDataParallel(AsModule(network, loss), find_unused_parameters=idle_weights)


def shard(
    network: nn.Module, loss: Callable[..., Any], world: World, device: torch.device, dtype: torch.dtype = torch.float32
) -> AsModule:
    """Let every process hold its part of each weight, gradient and optimizer state (Rajbhandari et al. 2020, ZeRO-3).

    Parts are float32. The weights of units travel and are used in `dtype`, their gradients are added up in float32;
    what lies between units is little, and stays float32 for mixed precision to convert.

    The weights of the network become DTensors, so the optimizer has to be made afterwards. Only inside the loss that is
    returned, and inside `gathered`, can the network be used. Weights may have no part in the loss if that is so in all
    processes.
    """
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    except ImportError:
        raise UnavailableError(
            f"loop.sharded needs torch 2.6 or newer, this is {torch.__version__}; upgrade it or leave that out"
        ) from None
    mesh = init_device_mesh(device.type, (world.size,))
    module = AsModule(network, loss)
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for unit in units(network):
        fully_shard(unit, mesh=mesh, reshard_after_forward=True, mp_policy=precision)
    fully_shard(module, mesh=mesh, reshard_after_forward=False)
    return module


@contextlib.contextmanager
def gathered(loss: Callable[..., Any]) -> Iterator[None]:
    """Let the network of a loss, if it is sharded, be called by itself inside the block, by all processes together."""
    root: Any = loss if isinstance(loss, AsModule) else None
    if root is not None:
        root.unshard()
    try:
        yield
    finally:
        if root is not None:
            root.reshard()


@contextlib.contextmanager
def gradients_stay_here(*losses: Any) -> Iterator[None]:
    """Leave gradients unexchanged inside the block; sharded ones are exchanged always, since whole ones take room."""
    with contextlib.ExitStack() as stack:
        for loss in losses:
            if isinstance(loss, DistributedDataParallel):
                stack.enter_context(loss.no_sync())
        yield


def whole(tensor: Tensor) -> Tensor:
    """Put a tensor together if it is sharded; all processes must call."""
    return tensor.full_tensor() if _sharded(tensor) else tensor  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies in this process, in place; all of it if it is not sharded."""
    return tensor.to_local() if _sharded(tensor) else tensor  # type: ignore[attr-defined]


def cut(value: Tensor, like: Tensor) -> Tensor:
    """Lay a whole tensor out as `like` is: this process's part of it if that is sharded."""
    if not _sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)  # type: ignore[attr-defined]


def _sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")
