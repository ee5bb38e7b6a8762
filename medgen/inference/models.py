"""Trained networks, ready to run: on their device, at their precision, with the facts that belong to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from medgen.artifacts.model_facts import DenoiserFacts, InterpolatorFacts, NormalizerFacts, VAEFacts
from medgen.artifacts.models import Model, load_model
from medgen.config import OptionsT, convert
from medgen.errors import ConfigError, DataError, UsageError
from medgen.nets.compute import Precision, resolve_precision
from medgen.nets.unet import UNet
from medgen.nets.unet_config import UNetConfig
from medgen.nets.vae import VAE, Posterior, VAEConfig

ROWS = 4
"""CPU kernels sum in another order for odd batches, which bfloat16 makes visible. In multiples of this, a sample comes
out bitwise the same in any batch, so that shards join into exactly the unsharded result."""

Network = TypeVar("Network", VAE, UNet)


@dataclass(frozen=True)
class Autoencoder:
    """A VAE that runs at the precision `dtype` and answers in float32."""

    network: VAE
    facts: VAEFacts
    model: Model
    device: torch.device
    dtype: torch.dtype

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Posterior:
        """Images (B, C, H, W) in [-1, 1], on any device -> posterior over latents (B, c, h, w)."""
        posterior = self.network.encode(_prepared(images, self.device))
        return Posterior(posterior.mean[: len(images)], posterior.logvar[: len(images)])

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Unscaled latents (B, c, h, w) -> images (B, C, H, W), float32, about [-1, 1]."""
        images = self.network.decode(_prepared(latents, self.device))
        return images[: len(latents)].float()

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> what is left of them after the mean latent."""
        return self.decode(self.encode(images).mean)


@dataclass(frozen=True)
class Denoiser:
    """A UNet that runs at the precision `dtype`, and the facts of its diffusion."""

    network: UNet
    facts: DenoiserFacts
    model: Model
    device: torch.device
    dtype: torch.dtype

    @torch.inference_mode()
    def __call__(self, x: Tensor, t: Tensor, vector: Tensor | None, keep: Tensor | None) -> Tensor:
        """Answer to x (B, c, h, w) at t (B,) under vector (B, K), or none where keep (B,) is False: (B, c, h, w)."""
        output: Tensor = self.network(
            _prepared(x, self.device),
            _padded(t.to(self.device)),
            vector=None if vector is None else _padded(vector),
            keep=None if keep is None else _padded(keep),
        )
        return output[: len(x)].float()


@dataclass(frozen=True)
class VolumeDenoiser:
    """A UNet of depth windows that runs at the precision `dtype`, and the facts of its diffusion."""

    network: UNet
    facts: InterpolatorFacts
    model: Model
    device: torch.device
    dtype: torch.dtype

    @torch.inference_mode()
    def __call__(self, x: Tensor, t: Tensor, scales: Tensor) -> Tensor:
        """Answer to x (B, C, N, h, w) at t (B,) for slices of these scales (B, 3): (B, c, N, h, w), float32."""
        output: Tensor = self.network(x.to(self.device), t.to(self.device), vector=scales.to(self.device))
        return output.float()


@dataclass(frozen=True)
class NormalizerNetwork:
    """A UNet with the heads "diffusion" and "flow" that runs at the precision `dtype`, and the facts of both paths."""

    network: UNet
    facts: NormalizerFacts
    model: Model
    device: torch.device
    dtype: torch.dtype

    @torch.inference_mode()
    def __call__(self, x: Tensor, t: Tensor, head: str) -> Tensor:
        """Answer of one head to x (B, c, h, w) at its time t (B,): (B, c, h, w), float32."""
        output: Tensor = self.network(_prepared(x, self.device), _padded(t.to(self.device)), head=head)
        return output[: len(x)].float()


def load_vae(path: Path, device: torch.device, precision: Precision = "auto") -> Autoencoder:
    """The VAE in the model file `path`; its EMA weights where it has them."""
    model = load_model(path, kind="vae")
    facts = VAEFacts.read(model.facts, str(path))
    network = VAE(_configuration(VAEConfig, model, path))
    _fill(network, model, path, ema=True)
    dtype = resolve_precision(precision, device)
    return Autoencoder(_ready(network, device, dtype), facts, model, device, dtype)


def load_denoiser(path: Path, device: torch.device, precision: Precision = "auto", *, ema: bool = True) -> Denoiser:
    """The denoiser in the model file `path`."""
    model = load_model(path, kind="denoiser")
    facts = DenoiserFacts.read(model.facts, str(path))
    network = UNet(_configuration(UNetConfig, model, path))
    _fill(network, model, path, ema=ema)
    dtype = resolve_precision(precision, device)
    return Denoiser(_ready(network, device, dtype), facts, model, device, dtype)


def load_interpolator(
    path: Path, device: torch.device, precision: Precision = "auto", *, ema: bool = True
) -> VolumeDenoiser:
    """The interpolator in the model file `path`."""
    model = load_model(path, kind="interpolator")
    facts = InterpolatorFacts.read(model.facts, str(path))
    network = UNet(_configuration(UNetConfig, model, path))
    _fill(network, model, path, ema=ema)
    dtype = resolve_precision(precision, device)
    return VolumeDenoiser(_ready(network, device, dtype), facts, model, device, dtype)


def load_normalizer(
    path: Path, device: torch.device, precision: Precision = "auto", *, ema: bool = True
) -> NormalizerNetwork:
    """The normalizer in the model file `path`."""
    model = load_model(path, kind="normalizer")
    facts = NormalizerFacts.read(model.facts, str(path))
    network = UNet(_configuration(UNetConfig, model, path))
    _fill(network, model, path, ema=ema)
    dtype = resolve_precision(precision, device)
    return NormalizerNetwork(_ready(network, device, dtype), facts, model, device, dtype)


def check_pair(model: Model, facts: DenoiserFacts | NormalizerFacts, vae: Autoencoder | None) -> None:
    """Raise unless a model's latents are those of the VAE: UsageError for one too many or few, else DataError."""
    if facts.space == "image":
        if vae is not None:
            raise UsageError("the model works on images, not latents; leave --vae out")
        return
    if vae is None:
        raise UsageError("the model works on latents; give the VAE that decodes them with --vae")
    if vae.model.digest != facts.vae_digest:
        raise DataError(
            f"{model.path} was trained on latents of the VAE {facts.vae_digest[:12]}, "
            f"but {vae.model.path} is the VAE {vae.model.digest[:12]}; give the VAE that made its latents"
        )


def _configuration(kind: type[OptionsT], model: Model, path: Path) -> OptionsT:
    try:
        return convert(kind, model.config, str(path))
    except ConfigError as error:  # nothing the user configured: the file comes from another version
        raise DataError(f"{error}; this version of medgen cannot build the network") from None


def _fill(network: nn.Module, model: Model, path: Path, *, ema: bool) -> None:
    try:
        network.load_state_dict(model.weights(ema=ema))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"{path}: the weights do not fit the network that the file describes: {reason}") from None


def _ready(network: Network, device: torch.device, dtype: torch.dtype) -> Network:
    # Autocast would keep float32 weights and convert them all again in each call.
    network.to(device, dtype).eval().requires_grad_(False)
    if network.config.dims == 2:  # bf16 convolutions run faster so; volumes gain nothing
        for parameter in network.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def _prepared(x: Tensor, device: torch.device) -> Tensor:
    x = _padded(x.to(device, non_blocking=True))
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _padded(x: Tensor) -> Tensor:
    """Rows (B, ...), the last one repeated up to a multiple of ROWS on the CPU."""
    missing = -len(x) % ROWS if x.device.type == "cpu" else 0
    return torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing else x
