"""The one training loop, which knows no learner: precision, moving average, clipping, resumption, processes."""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medgen.errors import Terminated
from medgen.nets.compute import autocast, channels_last, lay_channels_last
from medgen.nets.units import recompute_units
from medgen.read_ahead import read_ahead
from medgen.reporting import Reporter
from medgen.training.data.slices import BatchSource
from medgen.training.data.step import Batch, Step, mix, seeded
from medgen.training.loop.distributed import World, gathered, gradients_stay_here, replicate, shard
from medgen.training.loop.ema import MovingAverage
from medgen.training.loop.learner import Learner
from medgen.training.loop.log import Log
from medgen.training.loop.optimizers import Optimizers
from medgen.training.loop.options import LoopOptions
from medgen.training.loop.pictures import COUNT, Pictures
from medgen.training.loop.resume import DISCRIMINATOR, Progress, ResumeFile, below, pack, unpack
from medgen.training.loop.signals import StopRequest
from medgen.training.loop.watch import TrainingFailed, Watch

READ_AHEAD = ("cuda",)
"""Devices that work while a thread reads what is next; on a CPU it would take a core from the network."""


@dataclass
class Loop:
    """Train `learner` on `source`; call `run`, then read `learner.model`, `average` and `validate()`."""

    learner: Learner
    source: BatchSource
    validation: BatchSource | None
    options: LoopOptions
    seed: int
    device: torch.device
    dtype: torch.dtype
    """Of matrix products."""
    resume: ResumeFile
    log: Log
    reporter: Reporter
    world: World
    pictures: Pictures

    def __post_init__(self) -> None:
        options, learner = self.options, self.learner
        sharded = options.sharded and self.world.size > 1
        if options.sharded and not sharded:
            self.reporter.say("loop.sharded does nothing in one process; start several with torchrun")
        for network in self._networks():
            network.to(self.device)
            # Shards have the plain layout; convolutions bring them into that of their input.
            if options.channels_last and not sharded:
                lay_channels_last(network)
        if options.checkpoint:
            recompute_units(learner.model)
        self._loss: Callable[..., Any]
        if sharded:
            self._loss = shard(learner.model, learner.loss, self.world, self.device, self.dtype)
        else:
            self._loss = replicate(learner.model, learner.loss, self.world, learner.idle_weights)
        self._discriminator_loss: Callable[..., Any] | None = None
        if learner.discriminator is not None:
            self._discriminator_loss = replicate(learner.discriminator, learner.discriminator_loss, self.world)
        self.optimizers = Optimizers(self._networks(), options, self.device, self.dtype)
        averaged = options.ema and not learner.averages
        self.average = MovingAverage(learner.model, options.ema) if averaged else None
        self.total = options.batch_size * options.accumulate * self.world.size

    def run(self, begun: Progress) -> None:
        """Train from `begun` to the end; where `begun.step` > 0, the state is loaded from the resume file.

        Raises Terminated or KeyboardInterrupt after a signal, with the state saved, and TrainingFailed on figures
        that are not finite or diverge, with the last good state kept.
        """
        options = self.options
        self._saved = begun.step
        self._origin = 0 if begun.samples is None else begun.samples - begun.step * self.total
        self.watch = Watch(self.world, self._fault, self._advise, self.reporter.warn, begun.left_out)
        if begun.step:
            self._load()
        if options.compile:
            for network in self._networks():
                network.compile()
        self.learner.model.train()
        self.learner.begun()
        done, saved = begun.step, time.monotonic()
        self._told = begun.step, saved
        with (
            StopRequest() as stop,
            self.reporter.progress(options.steps - begun.step, "steps") as advance,
            contextlib.closing(self._batches(begun.step)) as batches,
        ):
            for index in range(begun.step, options.steps):
                if self.world.any(self.learner.ended):
                    break
                done = index + 1
                last = done == options.steps
                self._update(index, batches)
                self.log.write(done, self.learner.updated(done))
                stopping = self.world.any(stop.received is not None)
                log, validate, save = (
                    _due(done, every) for every in (options.log_every, options.validate_every, options.save_every)
                )
                if log:  # asked for so seldom because all processes must agree on it
                    save |= self.world.any(0 < 60 * options.save_minutes < time.monotonic() - saved)
                if self.device.type == "cpu" or log or validate or save or last or stopping:
                    self.watch.check()
                note = self._tell(done) if log or last else ""
                if validate and not last:
                    self.log.write(done, self.validate())
                if options.sample_every and (last or _due(done, options.sample_every)):
                    self.show(done)
                if (save or last or stopping) and not self.watch.suspicious:
                    self._save(done)
                    self._saved, saved = done, time.monotonic()
                advance(1, note)
                if stopping:
                    self._stop(done, stop.received)
        if self.world.any(stop.received is not None):  # in the last step, after it was asked for
            self._stop(done, stop.received)
        self.log.write(done, self.learner.finished(done))
        self._trained = self._collect_weights()

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the model the average weights, in evaluation mode, inside the block; all processes must enter it."""
        self.learner.model.eval()
        try:
            with self.average.in_place() if self.average else contextlib.nullcontext(), gathered(self._loss):
                yield
        finally:
            self.learner.model.train()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean loss and its parts with the average weights, over the same samples, noise and times at each call.

        Empty without a validation source. TrainingFailed if the loss is not finite.
        """
        if self.validation is None:
            return {}
        total = self.options.validation_samples
        sums: dict[str, Tensor] = {}
        with self.averaged():
            for offset in range(0, total, self.options.batch_size):
                count = min(self.options.batch_size, total - offset)
                step = Step(self.seed, 0, offset, count, total, "validation")
                batch = self.on_device(self.validation.at(step.positions))
                with autocast(self.device, self.dtype):
                    loss, parts = self.learner.loss(batch, step)
                for name, value in {"loss": loss, **parts}.items():
                    sums[name] = sums.get(name, 0) + value.double() * count / total
        figures = dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))
        if not math.isfinite(figures["loss"]):
            advice = self._advise(self.validation.faulty(range(total)))
            raise TrainingFailed(f"validation: the loss is {figures['loss']}: {advice}")
        return {f"validation_{name}": value for name, value in figures.items()}

    def show(self, done: int) -> None:
        """Write a sheet of what the model makes with the average weights; a failure is a warning, not the end.

        All processes compute it, since weights may be sharded; the first one writes.
        """
        source = self.validation or self.source
        positions = range(min(COUNT, len(source)))
        with self.averaged(), torch.no_grad():  # weights that did not all change places do end the training
            try:
                with seeded(self.seed, "pictures"), autocast(self.device, self.dtype):
                    shown = self.learner.samples(self.on_device(source.at(positions)), mix(self.seed, "pictures"))
                if self.world.first:
                    self.pictures.write(done, self.options.steps, shown, source.told(positions))
            except Exception as error:
                self.reporter.warn(f"step {done}: no picture ({error!r:.200}); training continues")

    def weights(self) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """State dicts, as `run` left them, of the model and of its moving average with everything that is not averaged.

        Sharded weights are whole in the first process and missing in the others.
        """
        return self._trained

    def _batches(self, first: int) -> Generator[Batch, None, None]:
        """All batches from step `first` on, in order."""
        steps = itertools.product(range(first, self.options.steps), range(self.options.accumulate))
        batches = (self._read(self._place(index, part)) for index, part in steps)
        return read_ahead(batches) if self.device.type in READ_AHEAD else batches

    def _read(self, step: Step) -> Batch:
        batch = self.source.at(step.positions)
        return {name: tensor.pin_memory() for name, tensor in batch.items()} if self.device.type == "cuda" else batch

    def _update(self, index: int, batches: Iterator[Batch]) -> None:
        """One step: gradients of all its batches, then the optimizers."""
        options = self.options
        figures: dict[str, Tensor] = {}
        self.optimizers.clear()
        for part in range(options.accumulate):
            step = self._place(index, part)
            batch = self.on_device(next(batches))
            last = part == options.accumulate - 1
            with (
                contextlib.nullcontext() if last else gradients_stay_here(self._loss, self._discriminator_loss),
                seeded(self.seed, "dropout", index, step.offset),
            ):
                with autocast(self.device, self.dtype):
                    loss, parts = self._loss(batch, step)
                self.optimizers.backward(loss / options.accumulate)
                parts = {"loss": loss.detach(), **parts}
                if self._discriminator_loss is not None:
                    with autocast(self.device, self.dtype):
                        against = self._discriminator_loss(batch, step)
                    self.optimizers.backward(against / options.accumulate)
                    parts["discriminator"] = against.detach()
            for name, value in parts.items():
                figures[name] = figures.get(name, 0) + value / options.accumulate
        self.watch.note(index, figures | self.optimizers.step(self.options.rate(index)))
        if self.average:
            self.average.update(index)

    def _place(self, index: int, part: int) -> Step:
        options = self.options
        offset = (part * self.world.size + self.world.rank) * options.batch_size
        progress = index / options.steps
        return Step(self.seed, index, offset, options.batch_size, self.total, "train", progress, self._origin)

    def on_device(self, batch: Batch) -> Batch:
        """The batch where the networks are, in their layout."""

        def move(tensor: Tensor) -> Tensor:
            moved = tensor.to(self.device, non_blocking=True)
            return channels_last(moved) if self.options.channels_last and tensor.ndim == 4 else moved

        return {name: move(tensor) for name, tensor in batch.items()}

    def _fault(self, index: int) -> str | None:
        """What is wrong with the data of step `index`."""
        return self.source.faulty(range(self._origin + index * self.total, self._origin + (index + 1) * self.total))

    def _advise(self, fault: str | None) -> str:
        """Advice to the user after a step that failed."""
        kept = self.resume.kept()
        if fault:
            return f"{fault}; fix or leave out that case ({kept})"
        exact = "" if self.dtype == torch.float32 else " or loop.precision=float32"
        if not self.resume.step():
            return f"the data are sound, so lower --learning-rate{exact and ' or set' + exact[3:]} ({kept})"
        lower = f"--continue-with loop.learning_rate={self.options.learning_rate / 2:g}"
        return f"the data are sound, so continue at a lower rate with {lower}{exact} ({kept})"

    def _tell(self, done: int) -> str:
        """Write means since the last time to the log; returns a note for the progress bar."""
        figures, now = self.watch.means(), time.monotonic()
        rate = (done - self._told[0]) * self.total / max(now - self._told[1], 1e-9)
        self._told = done, now
        self.log.write(done, figures | {"learning_rate": self.options.rate(done - 1), "images_per_second": rate})
        return f"loss {figures['loss']:.4g}" if "loss" in figures else ""

    def _networks(self) -> list[nn.Module]:
        """The networks being trained, the learner's model first."""
        learner = self.learner
        return [learner.model, *([learner.discriminator] if learner.discriminator is not None else [])]

    def _save(self, done: int) -> None:
        optimizers, average = self.optimizers, self.average.state() if self.average else {}
        packed = pack(self.learner.model, optimizers.each[0], average)
        for network, optimizer in zip(optimizers.networks[1:], optimizers.each[1:], strict=True):
            packed.update({DISCRIMINATOR + name: tensor for name, tensor in pack(network, optimizer, {}).items()})
        if optimizers.scale:
            packed |= optimizers.scale.state()
        collected = self.world.collect(packed)
        if self.world.first:
            progress = Progress(done, self._origin + done * self.total, tuple(self.watch.left_out))
            self.resume.save(collected, progress)

    def _collect_weights(self) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        state = self.world.collect(self.learner.model.state_dict())
        return state, {**state, **self.world.collect(self.average.state())} if self.average else None

    def _load(self) -> None:
        packed, optimizers = self.resume.load(), self.optimizers
        average = self.average.state() if self.average else {}
        unpack(packed, self.learner.model, optimizers.each[0], average)
        for network, optimizer in zip(optimizers.networks[1:], optimizers.each[1:], strict=True):
            unpack(below(packed, DISCRIMINATOR), network, optimizer, {})
        if optimizers.scale:
            optimizers.scale.load(packed)

    def _stop(self, done: int, received: int | None) -> None:
        there = "there" if self._saved == done else f"step {self._saved}"
        message = f"stopped after step {done} of {self.options.steps}; the same command continues from {there}"
        if received == signal.SIGINT:
            self.reporter.say(message)
            raise KeyboardInterrupt
        raise Terminated(message)


def _due(done: int, every: int) -> bool:
    return bool(every) and done % every == 0
