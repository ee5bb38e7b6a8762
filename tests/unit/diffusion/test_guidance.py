"""Classifier-free guidance: its identities, its cost, and what it does to a known distribution."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medgen.diffusion.guidance import (
    GuidanceScale,
    Sides,
    combine,
    guide,
    of_one_network,
    of_two_networks,
    scale_over_time,
)
from medgen.diffusion.options import GuidanceShape, SamplingOptions, ScheduleConfig
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


def sides(network: Network) -> Sides:
    return of_one_network(network, CONDITION, NEGATIVE, join)


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
    out = guide(sides(network), scale)(X, T)
    assert network.batches == batches
    mixture = NEGATIVE + scale * (CONDITION - NEGATIVE)
    torch.testing.assert_close(out, X * mixture + T.view(-1, 1))


def test_scale_may_follow_the_timestep() -> None:
    out = guide(sides(Network()), lambda t: t / 10)(X, T)
    mixture = NEGATIVE + torch.tensor([[1.0], [2.0], [3.0]]) * (CONDITION - NEGATIVE)
    torch.testing.assert_close(out, X * mixture + T.view(-1, 1))


FLOW = Schedule(ScheduleConfig(kind="flow"))
COSINE = Schedule(ScheduleConfig(kind="cosine"))


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_rising_scales_go_from_none_to_twice_as_much_with_the_scale_as_their_mean(shape: GuidanceShape) -> None:
    scale = scale_over_time(4.0, shape, COSINE)
    assert callable(scale)
    ends = scale(torch.tensor([999.0, 499.5, 0.0], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([1.0, 4.0, 7.0], dtype=torch.float64))
    every = scale(torch.arange(1000, dtype=torch.float64))
    assert float(every.mean()) == pytest.approx(4.0)
    assert (every.diff() <= 0).all()


@pytest.mark.parametrize("schedule", [FLOW, COSINE], ids=["flow", "cosine"])
def test_an_interval_is_of_the_same_shares_of_noise_on_every_path(schedule: Schedule) -> None:
    scale = scale_over_time(3.0, (0.25, 0.75), schedule)
    assert callable(scale)
    times = torch.tensor([schedule.time_of(level) for level in (0.2, 0.26, 0.5, 0.74, 0.8)], dtype=torch.float64)
    assert scale(times).tolist() == [1.0, 3.0, 3.0, 3.0, 1.0]


def test_outside_of_the_interval_the_network_runs_on_the_condition_alone() -> None:
    def guided(shape: GuidanceShape) -> list[int]:
        network = Network()
        denoise = guide(sides(network), scale_over_time(3.0, shape, FLOW))
        sample(denoise, X, FLOW, "flow", SamplingOptions(sampler="euler", steps=10, times="trailing"))
        return network.batches

    # The share of noise of the ten steps is 1.0, 0.9, ..., 0.1.
    assert guided((0.25, 0.75)) == [3, 3, 3, 6, 6, 6, 6, 6, 3, 3]
    assert guided("linear") == [3] + [6] * 9
    assert guided("constant") == [6] * 10


def test_a_weaker_network_takes_the_place_of_the_null_condition() -> None:
    strong, weak = Network(), Network()
    pair = of_two_networks(lambda x, t: strong(x, t, CONDITION), lambda x, t: weak(x, t, NEGATIVE))
    torch.testing.assert_close(guide(pair, 2.5)(X, T), guide(sides(Network()), 2.5)(X, T))
    assert (strong.batches, weak.batches) == ([3], [3])
    guide(pair, 1.0)(X, T)
    assert (strong.batches, weak.batches) == ([3, 3], [3])


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_a_dynamic_constant_is_the_constant(scale: float) -> None:
    def run(guidance_scale: GuidanceScale) -> Tensor:
        return guide(sides(Network()), guidance_scale)(X, T)

    torch.testing.assert_close(run(lambda t: torch.full(t.shape, scale)), run(scale))


def test_guidance_moves_samples_along_the_condition() -> None:
    # Unit Gaussians at +1 and at 0: the guided score is that of the unit Gaussian at `scale`.
    schedule = Schedule(ScheduleConfig(kind="cosine"))

    def denoise(x: Tensor, t: Tensor, mean: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha_sigma_for(x, t)
        return sigma * (x - alpha * mean)  # eps of N(mean, 1), since alpha^2 + sigma^2 = 1

    x = torch.tensor([[-1.0], [0.0], [1.0]])
    guided = guide(of_one_network(denoise, torch.ones(3, 1), torch.zeros(3, 1), join), 3.0)
    start = first_time(schedule, "eps")
    there = x + 3 * schedule.alpha(torch.tensor(start))
    out = sample(guided, there.float(), schedule, "eps", SamplingOptions(steps=100), start=start)
    torch.testing.assert_close(out, x + 3, rtol=0, atol=0.01)
