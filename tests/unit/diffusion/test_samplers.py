"""What a caller of `sample` relies on, whatever the sampler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medgen.config import convert
from medgen.diffusion.noise import NoiseStream
from medgen.diffusion.options import SamplerName, SamplingOptions, ScheduleConfig
from medgen.diffusion.samplers import SAMPLERS
from medgen.diffusion.sampling import sample
from medgen.diffusion.schedules import Schedule
from medgen.errors import ConfigError

SHAPE = (2, 4, 4)
SCHEDULES = {"vp": Schedule(ScheduleConfig()), "flow": Schedule(ScheduleConfig(kind="flow"))}
EVALUATIONS = {"ddpm": 8, "ddim": 8, "euler": 8, "dpm-solver++": 8, "unipc": 8, "heun": 15}
OPTIONS = {"steps", "times", "eta"}


def network(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(0.5 * x + t.float().view(-1, *[1] * (x.ndim - 1)) / 1000)


def run(name: SamplerName, schedule: str = "vp", indices: tuple[int, ...] = (0, 1, 2), **changes: Any) -> Tensor:
    noise = NoiseStream(5, indices, SHAPE)
    options = {"steps": 8, "times": "trailing"} | {key: changes.pop(key) for key in OPTIONS & set(changes)}
    arguments = {"denoise": network, "x": noise.initial(), "noise": noise.step} | changes
    asked = SamplingOptions(sampler=name, **options)
    return sample(schedule=SCHEDULES[schedule], objective="v", options=asked, **arguments)


def test_every_sampler_is_tried_here() -> None:
    assert set(EVALUATIONS) == set(SAMPLERS)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sample_does_not_depend_on_its_batch(name: SamplerName, schedule: str) -> None:
    together = run(name, schedule, (0, 1, 2))
    torch.testing.assert_close(run(name, schedule, (2,)), together[2:])
    torch.testing.assert_close(run(name, schedule, (1, 0)), together[:2].flip(0))


@pytest.mark.parametrize("name", SAMPLERS)
def test_only_stochastic_samplers_use_noise(name: SamplerName) -> None:
    other = NoiseStream(6, (0, 1, 2), SHAPE)
    assert torch.equal(run(name), run(name, noise=other.step)) == (name != "ddpm")
    if name == "ddim":
        assert not torch.equal(run(name, eta=0.5), run(name, eta=0.5, noise=other.step))


@pytest.mark.parametrize("name", SAMPLERS)
def test_network_gets_each_time_for_the_whole_batch(name: SamplerName) -> None:
    times = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        assert x.shape == (3, *SHAPE)
        assert t.shape == (3,)
        assert (t == t[0]).all()
        times.append(float(t[0]))
        return network(x, t)

    run(name, denoise=denoise)
    assert len(times) == EVALUATIONS[name]
    assert times[:2] == [999, 874]
    assert sorted(set(times)) == [124, 249, 374, 499, 624, 749, 874, 999]


@pytest.mark.parametrize("name", SAMPLERS)
def test_arrives_at_the_last_estimate_exactly(name: SamplerName) -> None:
    estimates = []
    out = run(name, callback=lambda step, t, x0: estimates.append((step, t, x0)))
    assert torch.equal(out, estimates[-1][2])
    assert estimates[-1][:2] == (7, 124.0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_callback_corrects_the_estimate(name: SamplerName) -> None:
    goal = torch.linspace(-1, 1, 32).view(SHAPE)
    out = run(name, callback=lambda step, t, x0: goal.expand_as(x0))
    torch.testing.assert_close(out, goal.expand_as(out))
    assert torch.equal(run(name, callback=lambda step, t, x0: None), run(name))


@pytest.mark.parametrize("name", SAMPLERS)
def test_clip_bounds_the_estimate_before_the_callback(name: SamplerName) -> None:
    largest = []
    out = run(name, clip=(-0.1, 0.2), callback=lambda step, t, x0: largest.append(x0.abs().max()))
    assert run(name).abs().max() > 0.2
    assert out.max() <= 0.2
    assert out.min() >= -0.1
    assert max(largest) <= 0.2


@pytest.mark.parametrize("name", SAMPLERS)
def test_start_begins_at_that_time(name: SamplerName) -> None:
    times = []
    x0 = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    noise = NoiseStream(1, (0, 1, 2), SHAPE)
    x_t = SCHEDULES["vp"].add_noise(x0, noise.initial(), torch.full((3,), 400))

    def knows(x: Tensor, t: Tensor) -> Tensor:
        times.append(float(t[0]))
        return x0

    options = SamplingOptions(sampler=name, steps=4, times="trailing")
    out = sample(knows, x_t, SCHEDULES["vp"], "x0", options, start=400, noise=noise.step)
    assert sorted(set(times), reverse=True) == [400, 299.75, 199.5, 99.25]
    assert torch.equal(out, x0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_single_precision_suffices_with_a_bfloat16_network(name: SamplerName) -> None:
    out = run(name, denoise=lambda x, t: network(x, t).bfloat16())
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, run(name), rtol=0, atol=0.1)


@pytest.mark.parametrize("name", SAMPLERS)
def test_gradients_flow_through(name: SamplerName) -> None:
    weight = torch.ones((), requires_grad=True)
    run(name, denoise=lambda x, t: weight * network(x, t)).square().sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "dimm"}, "sampler"),
        ({"sampler": "ddpm", "eta": 0.5}, "eta belongs to the sampler 'ddim'"),
        ({"sampler": "ddim", "eta": 1.5}, "eta"),
        ({"steps": 0}, "steps"),
        ({"times": "log"}, "times"),
        ({"times": []}, "times must fall"),
        ({"times": [100, 500]}, "times must fall"),
        ({"times": [500, 500]}, "times must fall"),
        ({"times": [500, -1]}, "times must fall"),
        ({"times": [float("nan")]}, "times must fall"),
    ],
)
def test_impossible_requests_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        convert(SamplingOptions, options, "sampling")


@pytest.mark.parametrize("start", [2000.0, -1.0])
def test_a_start_outside_the_path_is_refused(start: float) -> None:
    with pytest.raises(ConfigError, match="start"):
        run("ddim", start=start)


def test_eps_is_refused_on_a_path_from_pure_noise() -> None:
    with pytest.raises(ConfigError, match="eps"):
        sample(network, torch.zeros(1, 1), SCHEDULES["flow"], "eps", SamplingOptions(steps=2))


@pytest.mark.parametrize(("name", "eta"), [("ddpm", 0.0), ("ddim", 0.1)])
def test_missing_noise_is_an_error(name: SamplerName, eta: float) -> None:
    with pytest.raises(ValueError, match="noise"):
        run(name, eta=eta, noise=None)
