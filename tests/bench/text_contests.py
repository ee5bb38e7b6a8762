"""A UNet under texts against diffusers' of the same blocks and weights: a training step, and sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from medgen.diffusion.options import SamplingOptions, ScheduleConfig
from medgen.diffusion.sampling import sample
from medgen.diffusion.schedules import Schedule
from medgen.nets.condition import Condition
from medgen.nets.diffusers.unet import unet_from_diffusers
from medgen.nets.unet import UNet

from .network_contests import BETAS, Scale, freeze, setting_of, shape_of, update
from .table import OURS, Contest, Work
from .terms import Setting, Terms, terms

CHANNELS = 4
HEAD_WIDTH = 32
LENGTH = 77
"""Tokens a text, as CLIP has."""


def text_contests(device: torch.device, scale: Scale) -> Iterator[Contest]:
    """A training step, and sampling, under the states of texts."""
    config = reading(scale.unet_widths)[0].config
    for each in terms(device, config, training=True):
        yield _training(device, scale, each)
    for each in terms(device, config, training=False):
        yield _sampling(device, scale, each)


def reading(widths: tuple[int, ...]) -> tuple[UNet, Any]:
    """medgen's UNet and diffusers', with a transformer at each level but the coarsest, as in Stable Diffusion.

    They have equal weights, so that they answer alike.
    """
    from diffusers import UNet2DConditionModel

    below = len(widths) - 1
    theirs = UNet2DConditionModel(
        in_channels=CHANNELS, out_channels=CHANNELS, block_out_channels=widths, layers_per_block=2,
        norm_num_groups=min(32, widths[0]), attention_head_dim=[width // HEAD_WIDTH for width in widths],
        cross_attention_dim=context_width(widths), use_linear_projection=True,
        down_block_types=(*["CrossAttnDownBlock2D"] * below, "DownBlock2D"),
        up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * below),
    )  # fmt: skip
    null = torch.zeros(1, LENGTH, context_width(widths))
    config, state = unet_from_diffusers(
        {**theirs.config, "_class_name": "UNet2DConditionModel"}, theirs.state_dict(), null
    )
    ours = UNet(config)
    ours.load_state_dict(state)
    return ours, theirs


def context_width(widths: tuple[int, ...]) -> int:
    """Numbers a token: 768, as CLIP has, for widths of 128, 256, 512."""
    return 6 * widths[0]


def _calls(scale: Scale) -> dict[str, tuple[nn.Module, Callable[[Tensor, Tensor, Tensor], Tensor]]]:
    """Each network, and its answer to x (B, C, H, W) at times (B,) under states (B, L, context_width)."""
    ours, theirs = reading(scale.unet_widths)
    return {
        OURS: (ours, lambda x, t, states: ours(x, t, Condition(tokens=states))),
        "diffusers": (theirs, lambda x, t, states: theirs(x, t, states).sample),
    }


def _training(device: torch.device, scale: Scale, each: Terms) -> Contest:
    x, states, t = _given(device, scale)
    noise = torch.randn_like(x)

    def work(name: str, network: nn.Module, call: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Work:
        def loss() -> Tensor:
            return nn.functional.mse_loss(call(x, t, states), noise)

        return update(network, setting_of(name, each), device, loss)

    contestants = {name: work(name, *entry) for name, entry in _calls(scale).items()}
    return Contest(f"training step under texts, {shape_of(x)}", each.name, contestants)


def _sampling(device: torch.device, scale: Scale, each: Terms) -> Contest:
    from diffusers import DDIMScheduler

    start, states, _ = _given(device, scale)
    options = SamplingOptions(sampler="ddim", steps=scale.steps)
    schedule = Schedule(ScheduleConfig(kind="scaled_linear", **BETAS))
    ddim = DDIMScheduler(1000, beta_schedule="scaled_linear", clip_sample=False, **BETAS)

    def answers(setting: Setting, call: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
        told = states.to(setting.dtype)
        return lambda x, t: call(x.to(setting.dtype), t, told).float()

    def with_medgen(denoise: Callable[..., Tensor]) -> Tensor:
        return sample(denoise, start, schedule, "eps", options)

    def with_diffusers(denoise: Callable[..., Tensor]) -> Tensor:
        x = start
        ddim.set_timesteps(scale.steps)
        for t in ddim.timesteps:
            x = ddim.step(denoise(x, t.to(device).expand(len(x))), int(t), x).prev_sample
        return x

    contestants: dict[str, Work] = {}
    for (name, (network, call)), draw in zip(_calls(scale).items(), (with_medgen, with_diffusers), strict=True):
        setting = setting_of(name, each)
        freeze(network, setting, device)
        denoise = answers(setting, call)
        contestants[name] = torch.inference_mode()(lambda draw=draw, denoise=denoise: draw(denoise))
    return Contest(f"sampling under texts, {scale.steps} DDIM steps, {shape_of(start)}", each.name, contestants)


def _given(device: torch.device, scale: Scale) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, states of texts and times."""
    side = scale.latent_side
    x = torch.randn(scale.batch, CHANNELS, side, side, device=device)
    states = torch.randn(scale.batch, LENGTH, context_width(scale.unet_widths), device=device)
    return x, states, torch.randint(0, 1000, (scale.batch,), device=device)
