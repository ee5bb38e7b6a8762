"""A UNet under masks: two branches at once against one after the other, and sampling against diffusers' ControlNet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from medgen.diffusion.options import SamplingOptions, ScheduleConfig
from medgen.diffusion.sampling import sample
from medgen.diffusion.schedules import Schedule
from medgen.nets.condition import Condition
from medgen.nets.options import SideConfig, UNetConfig
from medgen.nets.side.siamese import Siamese
from medgen.nets.unet import UNet

from .network_contests import BETAS, Scale, freeze, setting_of, shape_of, update
from .table import OURS, Contest, Work
from .terms import Terms, terms

CHANNELS = 4
HINT_WIDTH = 16
FACTOR = 8
"""Side of the mask over that of the latents, as with the VAE of Stable Diffusion, whose ControlNets know no other."""


def side_contests(device: torch.device, scale: Scale) -> Iterator[Contest]:
    """Training of two branches, and sampling under a mask."""
    config = masked_config(scale.unet_widths)
    for each in terms(device, config, training=True):
        yield _two_branches(device, scale, config, each)
    for each in terms(device, config, training=False):
        yield _sampling(device, scale, config, each)


def masked_config(widths: tuple[int, ...]) -> UNetConfig:
    """medgen's UNet with a side network, of convolutions alone: diffusers' has no attention without a text."""
    return UNetConfig(
        in_channels=CHANNELS, out_channels=CHANNELS, widths=widths, blocks=2, attention=("none",) * len(widths),
        mid_attention="none", time_width=4 * widths[0], modulation="shift", groups=min(32, widths[0]),
        side=SideConfig(classes=1, factor=FACTOR, hint_width=HINT_WIDTH),
    )  # fmt: skip


def controlled(widths: tuple[int, ...]) -> tuple[Any, Any]:
    """diffusers' UNet and ControlNet of the same blocks: two in the middle, as medgen has, where one is their default.

    The hints are read by convolutions that begin with 16 channels in both libraries.
    """
    from diffusers import ControlNetModel, UNet2DConditionModel
    from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D

    shared: dict[str, Any] = {
        "in_channels": CHANNELS, "block_out_channels": widths, "layers_per_block": 2,
        "norm_num_groups": min(32, widths[0]), "down_block_types": ("DownBlock2D",) * len(widths),
        "mid_block_type": "UNetMidBlock2D",
    }  # fmt: skip
    unet = UNet2DConditionModel(out_channels=CHANNELS, up_block_types=("UpBlock2D",) * len(widths), **shared)
    hint = (HINT_WIDTH, 2 * HINT_WIDTH, 6 * HINT_WIDTH, 16 * HINT_WIDTH)
    control = ControlNetModel(conditioning_channels=1, conditioning_embedding_out_channels=hint, **shared)
    for network in (unet, control):
        network.mid_block = UNetMidBlock2D(
            widths[-1], 4 * widths[0], add_attention=False, resnet_groups=shared["norm_num_groups"], resnet_eps=1e-5
        )
    return unet, control


def one_by_one(network: Siamese, x: Tensor, t: Tensor, condition: Condition, image: Tensor) -> tuple[Tensor, Tensor]:
    """The answers of `Siamese.forward` by two whole passes: that of the mask, then that of the image."""
    unet, side = network.unet, network.side
    seen, mask = unet.see(x, t, condition), condition.mask
    if mask is None:
        raise ValueError("needs a mask")
    of_mask = side(x, seen.embedding, seen.tokens, mask)
    first = unet.answer(seen, of_mask)
    again = unet.see(x, t, condition)
    shown = side.residuals(x, again.embedding, again.tokens, side.hint.features(network.image_entry(image)))
    mixed = [theirs.detach() + ours for theirs, ours in zip(of_mask, shown, strict=True)]
    return first, unet.answer(again, mixed)


def _two_branches(device: torch.device, scale: Scale, config: UNetConfig, each: Terms) -> Contest:
    x, mask, t = _given(device, scale)
    image = torch.randn(scale.batch, 3, *mask.shape[2:], device=device)
    noise, condition = torch.randn_like(x), Condition(mask=mask)

    def work(name: str, answers: Callable[[Siamese], tuple[Tensor, Tensor]]) -> Work:
        network = Siamese(config, 3, "sum")

        def loss() -> Tensor:
            of_mask, of_image = answers(network)
            consistency = nn.functional.mse_loss(of_mask, of_image.detach())
            return nn.functional.mse_loss(of_mask, noise) + nn.functional.mse_loss(of_image, noise) + consistency

        return update(network, setting_of(name, each), device, loss)

    contestants = {
        OURS: work(OURS, lambda network: network(x, t, condition, image, 1.0)),
        "two passes": work("two passes", lambda network: one_by_one(network, x, t, condition, image)),
    }
    return Contest(f"siamese training step, {shape_of(x)}", each.name, contestants)


def _sampling(device: torch.device, scale: Scale, config: UNetConfig, each: Terms) -> Contest:
    from diffusers import DDIMScheduler

    start, mask, _ = _given(device, scale)
    options = SamplingOptions(sampler="ddim", steps=scale.steps)
    schedule = Schedule(ScheduleConfig(kind="scaled_linear", **BETAS))
    ours, (unet, control) = UNet(config), controlled(scale.unet_widths)
    own, theirs = setting_of(OURS, each), setting_of("diffusers", each)
    freeze(ours, own, device)
    for network in (unet, control):
        freeze(network, theirs, device)
    ddim = DDIMScheduler(1000, beta_schedule="scaled_linear", clip_sample=False, **BETAS)

    def with_medgen() -> Tensor:
        condition = ours.prepared(Condition(mask=mask.to(own.dtype)))
        return sample(lambda x, t: ours(x.to(own.dtype), t, condition).float(), start, schedule, "eps", options)

    def with_diffusers() -> Tensor:
        x, hint = start, mask.to(theirs.dtype)
        ddim.set_timesteps(scale.steps)
        for t in ddim.timesteps:
            seen, times = x.to(theirs.dtype), t.to(device).expand(len(x))
            skips, middle = control(seen, times, None, hint, return_dict=False)
            noise = unet(
                seen, times, None, down_block_additional_residuals=skips, mid_block_additional_residual=middle
            ).sample
            x = ddim.step(noise.float(), int(t), x).prev_sample
        return x

    quiet = torch.inference_mode()
    contestants = {OURS: quiet(with_medgen), "diffusers": quiet(with_diffusers)}
    return Contest(f"sampling under masks, {scale.steps} DDIM steps, {shape_of(start)}", each.name, contestants)


def _given(device: torch.device, scale: Scale) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, masks and times."""
    side = scale.latent_side
    x = torch.randn(scale.batch, CHANNELS, side, side, device=device)
    mask = (torch.rand(scale.batch, 1, FACTOR * side, FACTOR * side, device=device) < 0.5).float()
    return x, mask, torch.randint(0, 1000, (scale.batch,), device=device)
