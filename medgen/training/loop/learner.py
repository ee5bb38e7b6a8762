"""What is specific to one kind of model; the loop does everything else."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from torch import Tensor, nn

from medgen.models.policy import Policy
from medgen.nets.side.siamese import Siamese
from medgen.nets.unet import UNet
from medgen.nets.vae import VAE
from medgen.training.data.step import Batch, Step

Parts = dict[str, Tensor]
"""Named terms of a loss, detached scalars, for logs."""


@dataclass(frozen=True)
class Shown:
    """Pictures of what a model makes of a few samples."""

    rows: dict[str, Tensor]
    """By name, (B, C, H, W) in about [-1, 1], or latents, which have neither 1 nor 3 channels."""
    outlines: Tensor | None = None
    """Masks (B, M, H, W) that are drawn onto all."""
    note: str = ""


class Learner(abc.ABC):
    """A model and its loss."""

    model: UNet | VAE | Siamese | Policy
    discriminator: nn.Module | None = None
    """A second network with an optimizer of its own, such as a discriminator."""
    idle_weights: bool = False
    """Whether a loss may leave some weights unused; several processes must then look for these at each step."""

    averages: bool = False
    """Whether it keeps the moving average of its weights itself, and gives the model these in the end."""

    @abc.abstractmethod
    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Parts]:
        """Scalar loss of a batch, and its parts; all randomness comes from `step`."""

    def samples(self, batch: Batch, seed: int) -> Shown:
        """What the model makes of a batch, for people; called in evaluation mode, with noise from `seed` alone."""
        raise NotImplementedError

    def discriminator_loss(self, batch: Batch, step: Step) -> Tensor:
        """Scalar loss of the discriminator; called after `loss` with the same batch, in training only."""
        raise NotImplementedError

    def begun(self) -> None:
        """Take note of the model before the first update, or where a stopped training goes on; an error ends it."""
        return

    @property
    def ended(self) -> bool:
        """Whether the training should end before its last step."""
        return False

    def updated(self, done: int) -> dict[str, float]:
        """Follow up the `done`-th update of the weights; returns figures for the log."""
        return {}

    def finished(self, done: int) -> dict[str, float]:
        """Conclude the training after `done` updates, before the weights are collected; returns figures for the log."""
        return {}
