"""Options of train-vae."""

from __future__ import annotations

from typing import Annotated, Literal

from medgen.config import Options, option
from medgen.errors import ConfigError
from medgen.nets.options import DiscriminatorConfig, VAEConfig
from medgen.training.data.options import Balance
from medgen.training.loop.options import Size, TrainingOptions, Weight


class VAELosses(Options, frozen=True):
    """Weight of each term; a term of weight 0 is not computed."""

    pixel: Weight = 1.0
    pixel_norm: Literal["l1", "l2"] = "l1"
    gradient: Weight = 0.0
    """L1 of first differences along both axes of the plane."""
    laplacian: Weight = 0.0
    """L1 of the five-point Laplacian."""
    ssim: Weight = 1.0
    """Weight of 1 - SSIM."""
    kl: Weight = 1e-6
    """Weight of the KL divergence, in nats and summed over the latent of an image."""
    perceptual: Weight = 0.0
    """Weight of the distance between the built-in fixed features."""
    adversarial: Weight = 0.0
    """Weight of the patch discriminator's term, relative to the gradient of the other terms."""

    def __post_init__(self) -> None:
        if not any((self.pixel, self.gradient, self.laplacian, self.ssim, self.perceptual)):
            raise ConfigError("losses: every weight of a reconstruction term is 0; give pixel, for one, a weight")


class TrainVAEOptions(TrainingOptions, frozen=True):
    """Options of train-vae."""

    balance: Balance | None = None
    network: VAEConfig = VAEConfig()
    losses: VAELosses = VAELosses()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    decoder_only: Annotated[bool | Literal["with-init"], option("Train only the decoder of --init.")] = False
    """with-init: where there is an encoder to keep."""
    init: Annotated[str, option("Start from this VAE: a model file, or a diffusers folder.", metavar="VAE")] | None = (
        None
    )
    crop: Size = 0
    """Side of random crops to train on; 0 = whole images."""
    flip: bool = False
    """Mirror images at random, left and right."""
