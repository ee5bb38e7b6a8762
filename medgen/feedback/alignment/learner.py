"""The policy step as a learner: draw images, have them scored, learn from the scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medgen.diffusion.alignment import (
    advantages,
    clipped_errors,
    nft_errors,
    optimality,
    pairs,
    preference_errors,
    regression_weights,
    step_log_ratio,
)
from medgen.diffusion.noise import NoiseStream
from medgen.diffusion.objectives import diffusion_loss, to_x0
from medgen.diffusion.sampling import steps_of
from medgen.errors import DataError
from medgen.feedback.alignment.align_options import AlignOptions, DDPOOptions, DPOOptions, NFTOptions, RWROptions
from medgen.feedback.alignment.bound import Bound, Standing
from medgen.feedback.alignment.drawing import Chain, Space, draw
from medgen.feedback.alignment.held_out import HeldOut
from medgen.feedback.alignment.rehearsal import REAL
from medgen.feedback.alignment.sources import Asked, condition_in
from medgen.models.policy import Policy
from medgen.nets.condition import Condition
from medgen.nets.unet import UNet
from medgen.reporting import Reporter
from medgen.training.data.conditions import seen_condition
from medgen.training.data.step import Batch, Step, mix
from medgen.training.loop.ema import rising as rising_decay
from medgen.training.loop.learner import Learner, Parts
from medgen.training.loop.resume import below

Reward = Callable[[Tensor, Sequence[int]], Tensor]
"""Images (B, C, H, W) in [-1, 1] and the numbers of what was asked of each -> how good they are, (B,)."""

Shown = Sequence[tuple[Tensor, Sequence[int]]]
"""Images and numbers as those of `Reward`, in batches."""
Verdict = Callable[[Shown], Sequence[bool | None]]
"""Whether each image shows what was asked of it; None where that cannot be judged."""


DROPOUT = 0.1
"""Share of the real images that are learned from without their condition, which guidance leads away from."""
Errors = tuple[Tensor, Tensor]
"""Mean error of the method, and mean squared distance of predictions to those of the reference; scalars."""


@dataclass(frozen=True)
class Lesson:
    """Scored images: x0 (B, ...), what was asked, and how much better each is than the others of its group, (B,)."""

    chain: Chain
    condition: Condition
    advantage: Tensor
    size: int
    """Images in a group."""

    @property
    def x0(self) -> Tensor:
        """The images as the network works on them."""
        return self.chain.states[-1]


@dataclass(frozen=True)
class Look:
    """One noise level for each image: the noise, the time (B,), and the outputs of all policies there, (B, ...)."""

    noise: Tensor
    t: Tensor
    x_t: Tensor
    output: Tensor
    old: Tensor
    reference: Tensor


class AlignLearner(Learner):
    """The loss of the chosen method, plus the distance of predictions to the reference's, plus that of real images."""

    model: Policy
    idle_weights = True  # the null condition, where no real images are learned from
    averages = True

    def __init__(
        self,
        options: AlignOptions,
        unet: UNet,
        space: Space,
        reward: Reward | None,
        real: Asked,
        asked: Asked | None,
        held_out: HeldOut,
        reporter: Reporter,
        verdict: Verdict | None = None,
        first: float | None = None,
    ) -> None:
        """Align `unet`; `reward` is None where images come rated.

        In checks, images of what the `real` held-out ones show are compared with these, and those of what is `asked`
        are scored, and verified where there is a `verdict`; None = that is the same. `first` is as in `Bound`.
        """
        self.options, self.space, self.reward = options, space, reward
        self.model = Policy(unet)
        every, rising = options.check_every, options.loop.rising
        self.bound = Bound(self.model, self._standing, options.max_rise, every, reporter, rising, first)
        self.figures: dict[str, float] = {}
        """Of the weights that it ends with, and of those it began with."""
        self._real, self._asked, self._held_out, self._verdict = real, asked, held_out, verdict

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Parts]:
        """Mean loss over the images drawn for the conditions of the batch, or over the rated images in it."""
        with torch.no_grad():
            lesson, parts = self._rated(batch) if "image" in batch else self._drawn(batch, step)
        found = self._chain_errors if isinstance(self.options, DDPOOptions) else self._level_errors
        errors, changes = (torch.stack(parts).mean() for parts in zip(*found(lesson, step), strict=True))
        loss, parts = errors + self.options.kl * changes, {**parts, "distance": changes.detach()}
        if real := below(batch, REAL):
            rehearsal = self._denoising(real, step)
            loss, parts["rehearsal"] = loss + self.options.rehearsal * rehearsal, rehearsal.detach()
        return loss, parts

    def _denoising(self, real: Batch, step: Step) -> Tensor:
        """The loss of ordinary training on real images: `image` (B, C, H, W), and the parts of their conditions."""
        with torch.no_grad():
            x0 = self.space.seen(real["image"])
        schedule, noise = self.space.schedule, step.noise(x0)
        t = step.own(schedule.sample_times(step.total, step.generator("time"))).to(x0.device)
        condition = seen_condition({**real, "x": x0}, step, DROPOUT)
        output = self.model.unet(schedule.add_noise(x0, noise, t), t, condition)
        return diffusion_loss(output, self.space.objective, schedule, x0, noise, t).mean()

    def _rated(self, batch: Batch) -> tuple[Lesson, Parts]:
        x0 = self.space.seen(batch["image"])
        return Lesson(Chain([x0], []), condition_in(batch), batch["advantage"], 2), {}

    def _drawn(self, batch: Batch, step: Step) -> tuple[Lesson, Parts]:
        condition, unet = condition_in(batch), self.model.unet
        device = next(unet.parameters()).device
        noise = NoiseStream(mix(step.seed, "draw"), step.positions, self.space.facts.shape, device)
        with self.model.old.in_place():
            chain = draw(unet, condition, self.space, self.options.drawing, noise)
        rewards = self._scored(self.space.images(chain.states[-1]), batch["asked"].tolist())
        advantage = advantages(rewards, self.options.group)
        flat = (advantage.view(-1, self.options.group) == 0).all(1).float().mean()
        if flat == 1 and step.index == 0:
            raise DataError(
                "every image of a condition gets the same score, so that there is nothing to learn; check the selector "
                "with medgen select, and whether the model's samples of one condition differ"
            )
        return Lesson(chain, condition, advantage, self.options.group), {"reward": rewards.mean(), "flat": flat}

    @torch.no_grad()
    def _scored(self, images: Tensor, asked: Sequence[int]) -> Tensor:
        """Rewards (B,) of images, in float32."""
        if self.reward is None:
            raise ValueError("images that are drawn need a reward")
        with torch.autocast(images.device.type, enabled=False):
            return self.reward(images.float().clamp(-1, 1), asked).to(images.device)

    def _look(self, lesson: Lesson, step: Step, level: int) -> Look:
        x0, schedule = lesson.x0, self.space.schedule
        least, most = self.options.noise_range
        times = step.own(schedule.sample_times(step.total, step.generator(f"time {level}")))
        t = (least * (schedule.steps - 1) + (most - least) * times).to(x0.device)
        noise = step.noise(x0, f"noise {level}")
        if isinstance(self.options, DPOOptions):  # both of a pair are compared under one noise
            winners, losers = pairs(lesson.advantage, lesson.size)
            t[losers], noise[losers] = t[winners], noise[winners]
        x_t = schedule.add_noise(x0, noise, t)
        unet, condition = self.model.unet, lesson.condition
        with torch.no_grad():
            with self.model.old.in_place():
                old = unet(x_t, t, condition).float()
            with self.model.reference.in_place():
                reference = unet(x_t, t, condition).float()
        return Look(noise, t, x_t, unet(x_t, t, condition).float(), old, reference)

    def _level_errors(self, lesson: Lesson, step: Step) -> list[Errors]:
        """The errors at some noise levels of each image."""
        return [self._errors(lesson, self._look(lesson, step, level)) for level in range(self.options.noise_levels)]

    def _errors(self, lesson: Lesson, look: Look) -> Errors:
        options, advantage = self.options, lesson.advantage
        useful = (advantage != 0).float()
        change = (look.output - look.reference).square().mean()

        def estimated(output: Tensor) -> Tensor:
            return to_x0(self.space.objective, self.space.schedule, output, look.x_t, look.t)

        def denoising(output: Tensor) -> Tensor:
            return diffusion_loss(output, self.space.objective, self.space.schedule, lesson.x0, look.noise, look.t)

        if isinstance(options, NFTOptions):
            good = optimality(advantage)
            errors = nft_errors(estimated(look.output), estimated(look.old), lesson.x0, good, options.strength)
            return (useful * errors).mean(), change
        if isinstance(options, RWROptions):
            weights = regression_weights(advantage, options.temperature)
            return (useful * weights * denoising(look.output)).mean(), change
        assert isinstance(options, DPOOptions)
        winners, losers = pairs(advantage, lesson.size)
        now, before = denoising(look.output), denoising(look.reference)
        errors = preference_errors(
            now[winners], now[losers], before[winners], before[losers], options.beta, options.guard
        )
        return errors.sum() / max(len(winners), 1), change

    def _chain_errors(self, lesson: Lesson, step: Step) -> list[Errors]:
        """The errors of some steps of the chain by which the images were drawn; the last step draws nothing."""
        options = self.options
        assert isinstance(options, DDPOOptions)
        times, path = steps_of(self.space.schedule, self.space.objective, options.drawing)
        order = torch.randperm(len(times) - 1, generator=step.generator("steps"))[: options.noise_levels]
        states, estimates, unet = lesson.chain.states, lesson.chain.estimates, self.model.unet
        found = []
        for index in order.tolist():
            x = states[index]
            t = times[index].to(x.device).expand(len(x))
            with torch.no_grad(), self.model.reference.in_place():
                reference = unet(x, t, lesson.condition).float()
            output = unet(x, t, lesson.condition).float()

            estimate = to_x0(self.space.objective, self.space.schedule, output, x, t)
            now, std = self.space.step(estimate, x, path[index], path[index + 1])
            before, _ = self.space.step(estimates[index], x, path[index], path[index + 1])
            ratio = step_log_ratio(states[index + 1], now, before, std)
            errors = clipped_errors(ratio, lesson.advantage, options.clip)
            found.append((errors.mean(), (output - reference).square().mean()))
        return found

    def begun(self) -> None:
        """Measure where the model stands, so that what cannot be measured is refused before the first update."""
        _ = self.bound.begun

    @property
    def ended(self) -> bool:
        """Whether a check has found the policy beyond the bound."""
        return bool(self.model.broken)

    def updated(self, done: int) -> dict[str, float]:
        """Let the policy that draws follow (Zheng et al. 2025, section 3.4), and check it when that is due.

        Images that experts have rated come from the model as it was, so there it stays.
        """
        if self.reward is not None:
            self.model.old.follow(min(0.001 * done, 0.5))
        self.model.average.follow(rising_decay(self.options.loop.ema, done - 1))
        if not self.bound.due(done):
            return {}
        return self.bound.check(done).figures("checked")

    def finished(self, done: int) -> dict[str, float]:
        """Settle for the last weights within the bound."""
        self.figures = self.bound.settle(done)
        return self.figures

    def _standing(self) -> Standing:
        """Measure images of the network as it is; the same conditions and noise at each call, in each alignment."""
        asked = self._asked or self._real
        shown = self._shown(asked)
        score = None
        if self.reward is not None:
            score = float(torch.cat([self._scored(*batch) for batch in shown]).double().mean())
        shows = () if self._verdict is None else self._verdict(shown)
        distance = self._distance(shown)
        if asked is self._real:
            return Standing(distance, score, None, shows)
        return Standing(self._distance(self._shown(self._real)), score, distance, shows)

    def _distance(self, shown: Shown) -> float:
        return self._held_out.distance([images for images, _ in shown])

    @torch.no_grad()
    def _shown(self, asked: Asked) -> Shown:
        """Images for the conditions, with the numbers of these."""
        numbers, size = asked.spread(self.options.check_images), self.options.loop.batch_size
        device = next(self.model.parameters()).device
        shown: list[tuple[Tensor, Sequence[int]]] = []
        for start in range(0, len(numbers), size):
            indices = range(start, min(start + size, len(numbers)))
            chosen = [numbers[index] for index in indices]
            condition = asked.of(chosen).to(device)
            noise = NoiseStream(mix(0, "check"), indices, self.space.facts.shape, device)
            drawn = draw(self.model.unet, condition, self.space, self.options.drawing, noise)
            shown.append((self.space.images(drawn.states[-1]), chosen))
        return shown
