"""UNet and VAE in training and inference, each library's network doing the same work on the same terms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from medgen.diffusion.options import SamplingOptions, ScheduleConfig
from medgen.diffusion.sampling import sample
from medgen.diffusion.schedules import Schedule
from medgen.nets.compute import autocast

from .networks import LATENT_CHANNELS, unet_config, unets, vae_config, vaes, volume_config, volume_unets
from .table import OURS, Contest, Work
from .terms import Setting, Terms, terms

BETAS = {"beta_start": 0.002, "beta_end": 0.02}


@dataclass(frozen=True)
class Scale:
    """How large the networks and their data are."""

    unet_widths: tuple[int, ...] = (128, 256, 512)
    vae_widths: tuple[int, ...] = (64, 128, 256, 256)
    latent_side: int = 32
    image_side: int = 256
    crop: int = 128
    """Side of the images that the VAE is trained on."""
    batch: int = 8
    images: int = 2
    steps: int = 10
    volume_widths: tuple[int, ...] = (32, 64, 128)
    volume: tuple[int, int, int, int] = (10, 16, 64, 64)
    """Channels, slices, rows and columns of a window that an interpolator sees: noise, guess and places."""

    @property
    def factor(self) -> int:
        """Image side / latent side of the VAE."""
        return 2 ** (len(self.vae_widths) - 1)


def network_contests(device: torch.device, scale: Scale) -> Iterator[Contest]:
    """All of them, one after the other; the networks of a contest are made for it and gone afterwards."""
    unet, vae, volumes = (
        unet_config(scale.unet_widths),
        vae_config(scale.vae_widths),
        volume_config(scale.volume_widths, scale.volume[0], 4),
    )
    for each in terms(device, unet, training=True):
        yield _unet_training(device, scale, each)
    for each in terms(device, unet, training=False):
        yield _unet_sampling(device, scale, each)
    for each in terms(device, volumes, training=False):
        if "channels last" not in each.name and "plain layout" not in each.name:  # layouts are of planes
            yield _volume_denoising(device, scale, each)
    for each in terms(device, vae, training=True):
        yield _vae_training(device, scale, each)
    for coder in (_vae_encoding, _vae_decoding):
        for each in terms(device, vae, training=False):
            yield coder(device, scale, each)


def _unet_training(device: torch.device, scale: Scale, each: Terms) -> Contest:
    x = torch.randn(scale.batch, LATENT_CHANNELS, scale.latent_side, scale.latent_side, device=device)
    noise, t = torch.randn_like(x), torch.randint(0, 1000, (scale.batch,), device=device)

    def work(name: str, network: nn.Module, call: Callable[[Any, Tensor, Tensor], Tensor]) -> Work:
        setting = setting_of(name, each)
        given = _laid_out(x, setting)
        return update(network, setting, device, lambda: nn.functional.mse_loss(call(network, given, t), noise))

    networks = unets(scale.unet_widths, flash=_flash(device, each))
    contestants = {name: work(name, *entry) for name, entry in networks.items()}
    return Contest(f"UNet training step, {shape_of(x)}", each.name, contestants)


def _unet_sampling(device: torch.device, scale: Scale, each: Terms) -> Contest:
    from diffusers import DDIMScheduler as DiffusersDDIM
    from monai.networks.schedulers import DDIMScheduler as MonaiDDIM

    start = torch.randn(scale.batch, LATENT_CHANNELS, scale.latent_side, scale.latent_side, device=device)
    monai_ddim = MonaiDDIM(1000, "scaled_linear_beta", clip_sample=False, **BETAS)
    diffusers_ddim = DiffusersDDIM(1000, beta_schedule="scaled_linear", clip_sample=False, **BETAS)
    schedule = Schedule(ScheduleConfig(kind="scaled_linear", **BETAS))

    def work(name: str, network: nn.Module, call: Callable[[Any, Tensor, Tensor], Tensor]) -> Work:
        setting = setting_of(name, each)
        freeze(network, setting, device)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            return call(network, _laid_out(x, setting).to(setting.dtype), t).float()

        def ours() -> Tensor:
            options = SamplingOptions(sampler="ddim", steps=scale.steps)
            return sample(denoise, start, schedule, "eps", options)

        def monai() -> Tensor:
            x = start
            monai_ddim.set_timesteps(scale.steps)
            for t in monai_ddim.timesteps:
                x, _ = monai_ddim.step(denoise(x, t.to(device).expand(len(x))), int(t), x)
            return x

        def diffusers() -> Tensor:
            x = start
            diffusers_ddim.set_timesteps(scale.steps)
            for t in diffusers_ddim.timesteps:
                x = diffusers_ddim.step(denoise(x, t.to(device).expand(len(x))), int(t), x).prev_sample
            return x

        return torch.inference_mode()({OURS: ours, "MONAI": monai}.get(name, diffusers))

    networks = unets(scale.unet_widths, flash=_flash(device, each))
    contestants = {name: work(name, *entry) for name, entry in networks.items()}
    return Contest(f"UNet sampling, {scale.steps} DDIM steps, {shape_of(start)}", each.name, contestants)


def _volume_denoising(device: torch.device, scale: Scale, each: Terms) -> Contest:
    x, t = torch.randn(1, *scale.volume, device=device), torch.full((1,), 500, device=device)

    def work(name: str, network: nn.Module, call: Callable[[Any, Tensor, Tensor], Tensor]) -> Work:
        setting = replace(each.ours if name.startswith(OURS) else each.theirs, channels_last=False)
        freeze(network, setting, device)
        return torch.inference_mode()(lambda: call(network, x.to(setting.dtype), t).float())

    networks = volume_unets(scale.volume_widths, scale.volume[0], out_channels=4)
    contestants = {name: work(name, *entry) for name, entry in networks.items()}
    return Contest(f"3-D UNet, one pass, {shape_of(x)}", each.name, contestants)


def _vae_training(device: torch.device, scale: Scale, each: Terms) -> Contest:
    images = torch.randn(scale.images, 1, scale.crop, scale.crop, device=device)

    def work(name: str, network: nn.Module, train: Callable[[Any, Tensor], tuple[Tensor, Tensor]]) -> Work:
        setting = setting_of(name, each)
        given = _laid_out(images, setting)

        def loss() -> Tensor:
            reconstruction, mean = train(network, given)
            return nn.functional.mse_loss(reconstruction.float(), given) + 1e-6 * mean.square().mean()

        return update(network, setting, device, loss)

    contestants = {name: work(name, vae.network, vae.train) for name, vae in vaes(scale.vae_widths).items()}
    return Contest(f"VAE training step, {shape_of(images)}", each.name, contestants)


def _vae_encoding(device: torch.device, scale: Scale, each: Terms) -> Contest:
    images = torch.randn(scale.images, 1, scale.image_side, scale.image_side, device=device)
    coders = {name: (vae.network, vae.encode) for name, vae in vaes(scale.vae_widths).items()}
    return _coding("VAE encode", images, coders, device, each)


def _vae_decoding(device: torch.device, scale: Scale, each: Terms) -> Contest:
    side = scale.image_side // scale.factor
    latents = torch.randn(scale.images, LATENT_CHANNELS, side, side, device=device)
    coders = {name: (vae.network, vae.decode) for name, vae in vaes(scale.vae_widths).items()}
    return _coding("VAE decode", latents, coders, device, each)


def _coding(
    title: str,
    data: Tensor,
    coders: dict[str, tuple[nn.Module, Callable[[Any, Tensor], Tensor]]],
    device: torch.device,
    each: Terms,
) -> Contest:
    def work(name: str, network: nn.Module, code: Callable[[Any, Tensor], Tensor]) -> Work:
        setting = setting_of(name, each)
        freeze(network, setting, device)
        return torch.inference_mode()(lambda: code(network, _laid_out(data, setting).to(setting.dtype)).float())

    contestants = {name: work(name, *entry) for name, entry in coders.items()}
    return Contest(f"{title}, {shape_of(data)}", each.name, contestants)


def update(network: nn.Module, setting: Setting, device: torch.device, loss: Callable[[], Tensor]) -> Work:
    """Loss in mixed precision, backward, AdamW."""
    network.to(device, memory_format=_layout(setting)).train()
    if setting.compiled:
        network.compile()
    optimizer = torch.optim.AdamW(network.parameters(), fused=setting.fused or None)

    def step() -> None:
        with autocast(device, setting.dtype):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def freeze(network: nn.Module, setting: Setting, device: torch.device) -> None:
    """Make a network ready to be run alone."""
    network.to(device, setting.dtype, memory_format=_layout(setting)).eval().requires_grad_(False)
    if setting.compiled:
        network.compile()
        for half in ("encode", "decode"):  # of the VAEs, which are not called as a whole
            if hasattr(network, half):
                setattr(network, half, torch.compile(getattr(network, half)))


def setting_of(name: str, each: Terms) -> Setting:
    """The setting of a contestant."""
    return each.ours if name == OURS else each.theirs


def _flash(device: torch.device, each: Terms) -> bool:
    """On a CPU MONAI's plain attention is the faster one."""
    return each.theirs.fused and device.type == "cuda"


def _layout(setting: Setting) -> torch.memory_format:
    return torch.channels_last if setting.channels_last else torch.contiguous_format


def _laid_out(x: Tensor, setting: Setting) -> Tensor:
    return x.contiguous(memory_format=_layout(setting))


def shape_of(x: Tensor) -> str:
    """The shape, for the table."""
    return " x ".join(map(str, x.shape))
