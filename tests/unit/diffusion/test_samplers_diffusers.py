"""Samplers step by step against the schedulers of diffusers, on one fixed nonlinear network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from medgen.diffusion.options import Objective, SamplerName, SamplingOptions, ScheduleConfig
from medgen.diffusion.samplers import StepNoise
from medgen.diffusion.sampling import sample
from medgen.diffusion.schedules import Schedule

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SHAPE = (2, 3, 4, 4)
MIX = torch.randn(3, 3, generator=torch.Generator().manual_seed(1)) / 2
PREDICTION_TYPES: dict[Objective, str] = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
BETAS = {"beta_start": 0.002, "beta_end": 0.02, "beta_schedule": "scaled_linear"}


def network(x: Tensor, t: Tensor) -> Tensor:
    """A smooth function of x (B, 3, H, W) and t (B,)."""
    return torch.tanh(torch.einsum("ij,bjhw->bihw", MIX, x) + (t.float() / 1000).view(-1, 1, 1, 1))


def start() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def ours(
    name: SamplerName, config: ScheduleConfig, objective: Objective, times: Tensor, eta: float = 0.0, **options: Any
) -> Tensor:
    """The states that the network saw at these times, and the result: (evaluations + 1, B, 3, H, W)."""
    states = []
    asked = SamplingOptions(sampler=name, times=tuple(times.tolist()), eta=eta)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        states.append(x)
        return network(x, t)

    out = sample(denoise, start(), Schedule(config), objective, asked, start=float(times[0]), **options)
    return torch.stack([*states, out])


def theirs(scheduler: Any, times: Tensor | None = None, velocity: bool = False, **options: Any) -> Tensor:
    """The same of a scheduler whose timesteps are set; `times` tells the network another time than the scheduler."""
    states = []
    x = start() * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else start()
    if isinstance(scheduler, EulerDiscreteScheduler | HeunDiscreteScheduler):
        x = start() * (scheduler.sigmas[0] ** 2 + 1).sqrt()  # the same state, over alpha
    times = scheduler.timesteps if times is None else times
    for t, told in zip(scheduler.timesteps, times, strict=True):
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        states.append(scaled)
        output = network(scaled, told.expand(len(x)))
        x = scheduler.step(-output if velocity else output, t, x, **options).prev_sample
    return torch.stack([*states, x])


def seeded_noise(seed: int) -> StepNoise:
    """Draw what a scheduler draws that is given a generator of this seed."""
    generator = torch.Generator().manual_seed(seed)
    return lambda step: torch.randn(SHAPE, generator=generator)


def agree(mine: Tensor, reference: Tensor, tolerance: float = 1e-4) -> None:
    """Every state, to the share `tolerance` of its size: their tables are float32."""
    for step, (a, b) in enumerate(zip(mine, reference, strict=True)):
        assert (a - b).abs().max() <= tolerance * b.abs().max(), f"state {step}"


@pytest.mark.parametrize("objective", PREDICTION_TYPES)
@pytest.mark.parametrize("kind", ["scaled_linear", "cosine"])
def test_ddpm(kind: str, objective: Objective) -> None:
    names = {"scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
    scheduler = DDPMScheduler(
        **(BETAS | {"beta_schedule": names[kind]}),
        prediction_type=PREDICTION_TYPES[objective],
        timestep_spacing="trailing",
        clip_sample=False,
    )
    scheduler.set_timesteps(20)
    config = ScheduleConfig(kind=kind)  # type: ignore[arg-type]
    mine = ours("ddpm", config, objective, scheduler.timesteps, noise=seeded_noise(7))
    agree(mine, theirs(scheduler, generator=torch.Generator().manual_seed(7)), 1e-3)


@pytest.mark.parametrize("objective", PREDICTION_TYPES)
@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_ddim(objective: Objective, eta: float) -> None:
    scheduler = DDIMScheduler(
        **BETAS,
        prediction_type=PREDICTION_TYPES[objective],
        timestep_spacing="trailing",
        clip_sample=False,
    )
    scheduler.set_timesteps(25)
    mine = ours("ddim", ScheduleConfig(), objective, scheduler.timesteps, eta, noise=seeded_noise(7))
    agree(mine, theirs(scheduler, eta=eta, generator=torch.Generator().manual_seed(7)))


def test_ddim_clipped() -> None:
    scheduler = DDIMScheduler(**BETAS, timestep_spacing="trailing", clip_sample=True, clip_sample_range=0.8)
    scheduler.set_timesteps(25)
    mine = ours("ddim", ScheduleConfig(), "eps", scheduler.timesteps, clip=(-0.8, 0.8))
    agree(mine, theirs(scheduler, use_clipped_model_output=True))
    assert mine[-1].abs().max() <= 0.8


def test_ddim_with_zero_terminal_snr() -> None:
    scheduler = DDIMScheduler(
        **BETAS,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        rescale_betas_zero_snr=True,
    )
    scheduler.set_timesteps(25)
    agree(ours("ddim", ScheduleConfig(zero_terminal_snr=True), "v", scheduler.timesteps), theirs(scheduler))


@pytest.mark.parametrize("objective", PREDICTION_TYPES)
@pytest.mark.parametrize("steps", [10, 30])
def test_dpm_solver(objective: Objective, steps: int) -> None:
    scheduler = DPMSolverMultistepScheduler(
        **BETAS,
        prediction_type=PREDICTION_TYPES[objective],
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(steps)
    agree(ours("dpm-solver++", ScheduleConfig(), objective, scheduler.timesteps), theirs(scheduler), 1e-3)


@pytest.mark.parametrize("objective", PREDICTION_TYPES)
@pytest.mark.parametrize("steps", [2, 3, 10, 30])
def test_unipc(objective: Objective, steps: int) -> None:
    scheduler = UniPCMultistepScheduler(
        **BETAS, prediction_type=PREDICTION_TYPES[objective], timestep_spacing="trailing", final_sigmas_type="zero"
    )
    scheduler.set_timesteps(steps)
    agree(ours("unipc", ScheduleConfig(), objective, scheduler.timesteps), theirs(scheduler), 1e-3)


@pytest.mark.parametrize("objective", PREDICTION_TYPES)
@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_euler(objective: Objective, spacing: str) -> None:
    steps = 28 if spacing == "linspace" else 25  # 999 / 27 = 37: their linspace is not rounded
    scheduler = EulerDiscreteScheduler(
        **BETAS, prediction_type=PREDICTION_TYPES[objective], timestep_spacing=spacing, steps_offset=0
    )
    scheduler.set_timesteps(steps)
    agree(ours("euler", ScheduleConfig(), objective, scheduler.timesteps), theirs(scheduler))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_euler(shift: float) -> None:
    config = ScheduleConfig(kind="flow", shift=shift)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=[1 - i / 30 for i in range(30)])
    times = 1000 * (1 - torch.arange(30, dtype=torch.float64) / 30) - 1
    agree(ours("euler", config, "flow", times), theirs(scheduler, times, velocity=True))


def test_flow_heun() -> None:
    config = ScheduleConfig(kind="flow")
    scheduler = FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(12)
    times = torch.linspace(999, 0, 12, dtype=torch.float64)
    evaluated = torch.cat([times[:1], times[1:].repeat_interleave(2)])
    agree(ours("heun", config, "flow", times), theirs(scheduler, evaluated, velocity=True))


def test_heun_meets_the_one_in_sigma_over_alpha_at_second_order() -> None:
    # Theirs solves the same equation in another coordinate: the gap falls with the square of the step.
    def gap(steps: int) -> float:
        scheduler = HeunDiscreteScheduler(**BETAS, prediction_type="epsilon", timestep_spacing="trailing")
        scheduler.set_timesteps(steps)
        mine = ours("heun", ScheduleConfig(), "eps", scheduler.timesteps.unique().flip(0))[-1]
        return ((mine - theirs(scheduler)[-1]).abs().max() / mine.abs().max()).item()

    coarse, fine = gap(100), gap(200)
    assert fine < 1e-3
    assert coarse / fine > 3
