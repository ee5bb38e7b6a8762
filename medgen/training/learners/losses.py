"""Loss terms of an autoencoder's reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medgen.nets.perception.features import FixedFeatures, perceptual_distance
from medgen.nets.perception.similarity import ssim
from medgen.training.learners.vae_options import VAELosses
from medgen.training.loop.learner import Parts


class ReconstructionLoss:
    """Weighted sum of the terms that compare a reconstruction with its image, both (B, C, [D,] H, W) in [-1, 1]."""

    def __init__(self, weights: VAELosses) -> None:
        self.weights = weights
        self._features = FixedFeatures() if weights.perceptual else None

    def __call__(self, reconstruction: Tensor, x: Tensor) -> tuple[Tensor, Parts]:
        """Return the sum, a scalar in float32, and each unweighted term."""
        weights, reconstruction = self.weights, reconstruction.float()
        terms: dict[str, tuple[float, Tensor]] = {}
        if weights.pixel:
            norm = F.l1_loss if weights.pixel_norm == "l1" else F.mse_loss
            terms["pixel"] = weights.pixel, norm(reconstruction, x)
        if weights.gradient:
            terms["gradient"] = weights.gradient, gradient_difference(reconstruction, x)
        if weights.laplacian:
            terms["laplacian"] = weights.laplacian, laplacian_difference(reconstruction, x)
        if weights.ssim:
            terms["ssim"] = weights.ssim, 1 - ssim(as_slices(reconstruction), as_slices(x), 2.0).mean()
        if self._features is not None:
            features = self._features.to(x.device)
            distance = perceptual_distance(features, as_slices(reconstruction), as_slices(x))
            terms["perceptual"] = weights.perceptual, distance
        total = torch.stack([weight * term for weight, term in terms.values()]).sum()
        return total, {name: term.detach() for name, (_, term) in terms.items()}


def as_slices(x: Tensor) -> Tensor:
    """Lay the slices of volumes (B, C, D, H, W) side by side, (B * D, C, H, W); images stay as they are."""
    return x if x.ndim == 4 else x.transpose(1, 2).flatten(0, 1)


def gradient_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the first differences along y and x of two images (..., H, W), a scalar."""
    error = a - b
    return 0.5 * (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean())


def laplacian_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the five-point Laplacians, inside the border, of two images (..., H, W), a scalar."""
    error = a - b
    middle = error[..., 1:-1, 1:-1]
    around = error[..., :-2, 1:-1] + error[..., 2:, 1:-1] + error[..., 1:-1, :-2] + error[..., 1:-1, 2:]
    return (around - 4 * middle).abs().mean()


def generator_loss(logits: Tensor) -> Tensor:
    """Hinge loss of the side that wants to be judged real, a scalar (Lim & Ye 2017)."""
    return -logits.float().mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the judge, from logits of any shape, a scalar (Lim & Ye 2017)."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: nn.Parameter | Tensor) -> Tensor:
    """Ratio of both losses' gradients at the last layer, a scalar in [0, 1e4] (Esser et al. 2021, eq. 7)."""
    lift = 2.0**12  # both gradients, by a power of two, which changes no bit but those that float16 would lose
    (wanted,) = torch.autograd.grad(reconstruction * lift, last_layer, retain_graph=True)
    (given,) = torch.autograd.grad(adversarial * lift, last_layer, retain_graph=True)
    ratio: Tensor = wanted.norm() / (given.norm() + 1e-4 * lift)
    return ratio.clamp(0, 1e4).detach()
