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

OF_TORCHRUN = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT")
"""Numbers that it sets in the environment of each process."""


@dataclass(frozen=True)
class World:
    """The current process among all; the only one unless torchrun started more."""

    rank: int = 0
    size: int = 1
    _messages: Any = None
    """Group on the CPU for small messages, so that they need not wait for a GPU."""

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
        """Each process's number, by rank."""
        if self.size == 1:
            return [value]
        gathered = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(gathered, torch.tensor([value]), group=self._messages)
        return [int(number) for number in gathered]

    def mean(self, values: Tensor) -> Tensor:
        """Mean of a CPU tensor over all processes."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total, group=self._messages)
        return total / self.size

    def collect(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gather sharded tensors on the CPU of the first process; all processes must call, the others get nothing."""
        collected = {}
        for name, tensor in tensors.items():  # one by one: together they may not fit on a GPU
            full = whole(tensor).cpu() if _sharded(tensor) else tensor
            if self.first:
                collected[name] = full
        return collected

    def wait(self) -> None:
        """Wait until all processes have reached this call."""
        if self.size > 1:
            dist.barrier(group=self._messages)


@contextlib.contextmanager
def world(device: torch.device) -> Iterator[tuple[World, torch.device]]:
    """Join the processes that torchrun started; yields the world and this process's device."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield World(), device
        return
    try:
        size, rank, local, _ = (int(os.environ[name]) for name in OF_TORCHRUN)
    except (KeyError, ValueError):
        raise UsageError(
            "WORLD_SIZE is set, but not all of RANK, LOCAL_RANK and MASTER_PORT; start several processes with torchrun"
        ) from None
    if device.type == "cuda":
        if local >= (count := torch.cuda.device_count()):
            raise UsageError(f"process {local} of this machine finds {count} GPUs; start no more processes than those")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(rank, size, dist.new_group(backend="gloo")), device
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):  # gloo's have no class of their own
            raise
        raise UnavailableError(
            "another process of this training has ended, as its own message explains; run the same command again"
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
        """Return the loss's result."""
        return self.function(batch, step)


def replicate(
    network: nn.Module, loss: Callable[..., Any], world: World, idle_weights: bool = False
) -> Callable[..., Any]:
    """Replicate the network in every process; after the returned loss's backward pass each holds the mean gradient.

    `idle_weights`: some weights may not contribute to the loss, and which ones may differ between processes.
    """
    if world.size == 1:
        return loss
    module = AsModule(network, loss)
    buffers = [name for name, _ in module.named_buffers()]  # none of ours changes, and those in 4 bits are large
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, buffers)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(module, find_unused_parameters=idle_weights)


def shard(
    network: nn.Module, loss: Callable[..., Any], world: World, device: torch.device, dtype: torch.dtype = torch.float32
) -> AsModule:
    """Shard each weight, gradient and optimizer state over all processes (Rajbhandari et al. 2020, ZeRO-3).

    Shards are float32. The weights of units are gathered and used in `dtype`, and their gradients are summed in
    float32. The few weights outside units stay float32, for mixed precision to convert.

    The weights of the network become DTensors, so the optimizer has to be made afterwards. The network can be used
    only inside the returned loss and inside `gathered`. A weight may be unused in the loss if all processes agree.
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
    """Allow direct calls of a loss's network inside the block, even if it is sharded; all processes must call it."""
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
    """Do not exchange gradients inside the block; sharded ones always are, since whole ones would take memory."""
    with contextlib.ExitStack() as stack:
        for loss in losses:
            if isinstance(loss, DistributedDataParallel):
                stack.enter_context(loss.no_sync())
        yield


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor, gathered if it is sharded; all processes must call."""
    return tensor.full_tensor() if _sharded(tensor) else tensor  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """The current process's part of a tensor, sharing its memory; all of it if it is not sharded."""
    return tensor.to_local() if _sharded(tensor) else tensor  # type: ignore[attr-defined]


def cut(value: Tensor, like: Tensor) -> Tensor:
    """Distribute a whole tensor as `like` is: this process's part of it if `like` is sharded."""
    if not _sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)  # type: ignore[attr-defined]


def _sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")
