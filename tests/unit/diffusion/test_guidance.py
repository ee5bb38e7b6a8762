"""Classifier-free guidance: its identities, its cost, and what it does to a known distribution."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medgen.diffusion.guidance import GuidanceScale, combine, guide
from medgen.diffusion.options import SamplingOptions, ScheduleConfig
from medgen.diffusion.sampling import sample
from medgen.diffusion.schedules import Schedule
from medgen.diffusion.times import first_time


class Network:
    """Answers x times the condition (B, 1), and remembers the sizes of its batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        assert len(x) == len(t) == len(condition)
        self.batches.append(len(x))
        return x * condition + t.view(-1, 1)


def join(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a, b])


X = torch.tensor([[1.0, -2.0], [0.5, 3.0], [2.0, 1.0]])
T = torch.tensor([10, 20, 30])
CONDITION, NEGATIVE = torch.tensor([[2.0], [3.0], [4.0]]), torch.tensor([[1.0], [-1.0], [0.0]])


@given(scale=st.floats(-3, 12), seed=st.integers(0, 99), rescale=st.floats(0, 1))
@settings(max_examples=50)
def test_identities(scale: float, seed: int, rescale: float) -> None:
    a, b = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(combine(a, b, 1.0, rescale), a)
    torch.testing.assert_close(combine(a, b, 0.0), b)
    torch.testing.assert_close(combine(a, a, scale, rescale), a)
    torch.testing.assert_close(combine(a, b, scale), combine(b, a, 1 - scale))
    torch.testing.assert_close(combine(a, b, scale), combine(a, b, torch.full((3,), scale, dtype=torch.float64)))


def test_rescale_gives_each_sample_the_spread_of_the_conditional_output() -> None:
    a, b = torch.randn(2, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    guided, rescaled, half = (combine(a, b, 7.5, phi) for phi in (0.0, 1.0, 0.5))
    assert (guided.flatten(1).std(1) > 3 * a.flatten(1).std(1)).all()
    torch.testing.assert_close(rescaled.flatten(1).std(1), a.flatten(1).std(1))
    torch.testing.assert_close(half, (guided + rescaled) / 2)


@pytest.mark.parametrize(("scale", "batches"), [(1.0, [3]), (0.0, [3]), (2.5, [6])])
def test_network_runs_once_and_doubled_only_where_needed(scale: float, batches: list[int]) -> None:
    network = Network()
    out = guide(network, CONDITION, NEGATIVE, scale, join=join)(X, T)
    assert network.batches == batches
    mixture = NEGATIVE + scale * (CONDITION - NEGATIVE)
    torch.testing.assert_close(out, X * mixture + T.view(-1, 1))


def test_scale_may_follow_the_timestep() -> None:
    out = guide(Network(), CONDITION, NEGATIVE, lambda t: t / 10, join=join)(X, T)
    mixture = NEGATIVE + torch.tensor([[1.0], [2.0], [3.0]]) * (CONDITION - NEGATIVE)
    torch.testing.assert_close(out, X * mixture + T.view(-1, 1))


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_a_dynamic_constant_is_the_constant(scale: float) -> None:
    def run(guidance_scale: GuidanceScale) -> Tensor:
        return guide(Network(), CONDITION, NEGATIVE, guidance_scale, join=join)(X, T)

    torch.testing.assert_close(run(lambda t: torch.full(t.shape, scale)), run(scale))


def test_guidance_moves_samples_along_the_condition() -> None:
    # Unit Gaussians at +1 and at 0: the guided score is that of the unit Gaussian at `scale`.
    schedule = Schedule(ScheduleConfig(kind="cosine"))

    def denoise(x: Tensor, t: Tensor, mean: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha_sigma_for(x, t)
        return sigma * (x - alpha * mean)  # eps of N(mean, 1), since alpha^2 + sigma^2 = 1

    x = torch.tensor([[-1.0], [0.0], [1.0]])
    guided = guide(denoise, torch.ones(3, 1), torch.zeros(3, 1), 3.0, join=join)
    start = first_time(schedule, "eps")
    there = x + 3 * schedule.alpha(torch.tensor(start))
    out = sample(guided, there.float(), schedule, "eps", SamplingOptions(steps=100), start=start)
    torch.testing.assert_close(out, x + 3, rtol=0, atol=0.01)
