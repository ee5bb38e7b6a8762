"""Our UNet with weights of Stable Diffusion's computes what diffusers computes, and gives them back unchanged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from msgspec.structs import replace

from medgen.diffusion.guidance import guide, of_one_network
from medgen.diffusion.options import SamplingOptions, ScheduleConfig
from medgen.diffusion.sampling import sample
from medgen.diffusion.schedules import Schedule
from medgen.errors import DataError
from medgen.nets.condition import Condition
from medgen.nets.diffusers.unet import unet_from_diffusers, unet_to_diffusers
from medgen.nets.options import UNetConfig
from medgen.nets.unet import UNet

diffusers = pytest.importorskip("diffusers")

LENGTH, CONTEXT = 7, 12
SHAPE: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (16, 24, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "cross_attention_dim": CONTEXT,
}
FLAVOURS: dict[str, dict[str, Any]] = {
    "1.5": SHAPE | {"attention_head_dim": 4},
    "2.1": SHAPE | {"attention_head_dim": (2, 3, 4), "use_linear_projection": True},
}
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, TOKENS, EMPTY = randn(2, 4, 8, 8), randn(2, LENGTH, CONTEXT, seed=1), randn(1, LENGTH, CONTEXT, seed=2)


def their_unet(flavour: str) -> Any:
    """With every weight random, so that no zero or one hides a wrong name."""
    torch.manual_seed(0)
    theirs = diffusers.UNet2DConditionModel(**FLAVOURS[flavour]).eval().requires_grad_(False)
    for name, parameter in theirs.named_parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 16
        torch.nn.init.normal_(parameter, std=fan**-0.5, mean=1.0 if "norm" in name and "weight" in name else 0.0)
    return theirs


def our_unet(theirs: Any) -> UNet:
    config, state = unet_from_diffusers(dict(theirs.config), theirs.state_dict(), EMPTY)
    ours = UNet(config).eval().requires_grad_(False)
    ours.load_state_dict(state)
    return ours


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_one_call_equals_diffusers(flavour):
    theirs = their_unet(flavour)
    ours = our_unet(theirs)
    time = torch.tensor([981.0, 17.0])
    expected = theirs(X, time, TOKENS).sample
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(X, time, Condition(tokens=TOKENS)), expected, atol=1e-4, rtol=0)
    # "No condition" is the empty text, for each sample on its own.
    mixed = ours(X, time, Condition(tokens=TOKENS, present=torch.tensor([True, False])))
    torch.testing.assert_close(mixed[:1], expected[:1], atol=1e-4, rtol=0)
    torch.testing.assert_close(mixed[1:], theirs(X[1:], time[1:], EMPTY).sample, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours(X, time), theirs(X, time, EMPTY.repeat(2, 1, 1)).sample, atol=1e-4, rtol=0)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver++"])
def test_each_step_and_the_whole_sampler_with_guidance_equal_diffusers(flavour, sampler):
    theirs, scale, steps = their_unet(flavour), 3.0, 6
    objective = "v" if flavour == "2.1" else "eps"
    told = {"prediction_type": "v_prediction" if flavour == "2.1" else "epsilon", **BETAS}
    if sampler == "ddim":
        scheduler = diffusers.DDIMScheduler(
            clip_sample=False, set_alpha_to_one=True, steps_offset=1, timestep_spacing="leading", **told
        )
    else:
        scheduler = diffusers.DPMSolverMultistepScheduler(
            final_sigmas_type="zero", steps_offset=1, timestep_spacing="leading", **told
        )
    scheduler.set_timesteps(steps)
    x, seen = X, []
    for time in scheduler.timesteps:
        seen.append(x)
        both = torch.cat([EMPTY.repeat(2, 1, 1), TOKENS])
        without, given = theirs(x.repeat(2, 1, 1, 1), time, both).sample.chunk(2)
        x = scheduler.step(without + scale * (given - without), time, x).prev_sample

    ours = our_unet(theirs)
    condition, states = Condition(tokens=TOKENS), []

    def denoise(x: torch.Tensor, t: torch.Tensor, condition: Condition) -> torch.Tensor:
        states.append(x[:2])
        return ours(x, t, condition)

    guided = guide(of_one_network(denoise, condition, condition.null(), Condition.joined), scale)
    times = tuple(float(time) for time in scheduler.timesteps)
    schedule = Schedule(ScheduleConfig(kind="scaled_linear", beta_start=0.00085, beta_end=0.012))
    options = SamplingOptions(sampler=sampler, times=times)
    found = sample(guided, X, schedule, objective, options, start=times[0])
    assert found.std() > 0.1
    for step, (one, other) in enumerate(zip([*states, found], [*seen, x], strict=True)):
        tolerance = 1e-4 * max(1.0, float(other.abs().max()))
        torch.testing.assert_close(one, other, atol=tolerance, rtol=0, msg=lambda text, at=step: f"step {at}: {text}")


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_way_back_gives_the_same_bits_and_diffusers_takes_it(flavour):
    theirs = their_unet(flavour)
    config, state = unet_from_diffusers(dict(theirs.config), theirs.state_dict(), EMPTY)
    settings, weights = unet_to_diffusers(config, state, 8)
    expected = theirs.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    # Without gradients, as theirs: with them torch may multiply by another kernel, whose sums differ on Intel.
    again = diffusers.UNet2DConditionModel.from_config(settings).eval().requires_grad_(False)
    again.load_state_dict(weights)
    assert torch.equal(again(X, 500, TOKENS).sample, theirs(X, 500, TOKENS).sample)


def test_the_transformer_trains_from_nothing():
    config = UNetConfig(
        in_channels=4, out_channels=4, widths=(8, 16), blocks=1, attention=("transformer", "transformer"),
        mid_attention="transformer", head_width=(4, 8), time_width=16, groups=4, context_width=CONTEXT,
        modulation="shift",
    )  # fmt: skip
    torch.manual_seed(0)
    network = UNet(config)
    for weight in network.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    network(X, torch.tensor(3.0), Condition(tokens=TOKENS, present=torch.tensor([True, False]))).mean().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in network.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"addition_embed_type": "text_time"}, "addition_embed_type = text_time"),
        ({"down_block_types": ("AttnDownBlock2D",) * 3}, "AttnDownBlock2D"),
        ({"up_block_types": ("UpBlock2D",) * 3}, "up_block_types"),
        ({"attention_head_dim": 5}, "attention_head_dim"),
        ({"cross_attention_dim": 16}, "cross_attention_dim = 16"),
        ({"layers_per_block": 1}, r"'up_blocks\.0\.resnets\.1\.norm1\.weight' has shape"),
        ({"layers_per_block": 3}, r"weights lack 'down_blocks\.0\.resnets\.2"),
        ({"in_channels": 9}, r"'conv_in\.weight' has shape"),
    ],
)
def test_what_is_not_ours_is_refused_by_name(change, message):
    theirs = their_unet("1.5")
    with pytest.raises(DataError, match=message):
        unet_from_diffusers({**theirs.config, **change}, theirs.state_dict(), EMPTY)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"gated_skips": True}, "gated_skips"),
        ({"up_attention": ("linear",) * 3}, "up_attention"),
        ({"vector_size": 2}, "vector_size"),
    ],
)
def test_what_is_not_theirs_is_refused_by_name(change, name):
    theirs = their_unet("1.5")
    config, state = unet_from_diffusers(dict(theirs.config), theirs.state_dict(), EMPTY)
    with pytest.raises(DataError, match=rf"network\.{name}, which Stable Diffusion has not"):
        unet_to_diffusers(replace(config, **change), state, 8)


def test_tokens_of_another_length_than_the_empty_text_are_refused():
    ours = our_unet(their_unet("1.5"))
    with pytest.raises(DataError, match=r"5 tokens .* expected 7"):
        ours(X, torch.tensor(3.0), Condition(tokens=TOKENS[:, :5]))
