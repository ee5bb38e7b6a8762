from __future__ import annotations

import pytest
import torch

from medgen.errors import ConfigError
from medgen.nets.perception.similarity import ssim
from medgen.training.learners.losses import (
    ReconstructionLoss,
    adaptive_weight,
    as_slices,
    discriminator_loss,
    generator_loss,
    gradient_difference,
    laplacian_difference,
)
from medgen.training.learners.vae_options import VAELosses

NONE = {"pixel": 0.0, "ssim": 0.0, "kl": 0.0}


def test_gradient_and_laplacian_are_blind_to_what_they_should_be_blind_to() -> None:
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    zero = torch.zeros(1, 1, 8, 8)
    ramp = (3 * rows + columns)[None, None]
    bowl = (rows**2 + 2 * columns**2)[None, None]
    assert gradient_difference(zero + 5, zero) == 0
    assert gradient_difference(ramp, zero) == pytest.approx(0.5 * (3 + 1))
    assert laplacian_difference(ramp, zero) == 0
    assert laplacian_difference(bowl, zero) == pytest.approx(2 + 4)


@pytest.mark.parametrize("name", ["pixel", "gradient", "laplacian", "ssim", "perceptual"])
def test_each_term_alone_is_zero_for_equal_images_and_leads_towards_them(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 1, 32, 32, generator=generator) * 2 - 1
    loss = ReconstructionLoss(VAELosses(**(NONE | {name: 2.0})))
    equal, _ = loss(x.clone(), x)
    assert float(equal) == pytest.approx(0, abs=1e-5)
    y = (x + 0.3 * torch.randn(x.shape, generator=generator)).requires_grad_()
    total, parts = loss(y, x)
    assert list(parts) == [name]
    before = float(total.detach())
    assert before == pytest.approx(2 * float(parts[name]))
    assert before > 0.01
    (slope,) = torch.autograd.grad(total, y)
    nearer, _ = loss(y.detach() - 0.05 * slope / slope.abs().max(), x)
    assert float(nearer) < before


def test_terms_add_up_by_their_weights() -> None:
    x = torch.zeros(1, 1, 16, 16)
    y = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    total, parts = ReconstructionLoss(VAELosses(pixel=2, pixel_norm="l2", ssim=0.5))(y, x)
    assert float(parts["pixel"]) == pytest.approx(float(y.square().mean()))
    assert float(parts["ssim"]) == pytest.approx(1 - float(ssim(y, x, 2.0)))
    assert float(total) == pytest.approx(2 * float(parts["pixel"]) + 0.5 * float(parts["ssim"]))


def test_volumes_are_judged_slice_by_slice() -> None:
    x, y = torch.rand(2, 2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(as_slices(x)[4], x[1, :, 1])
    volume, _ = ReconstructionLoss(VAELosses(perceptual=1.0))(y, x)
    slices, _ = ReconstructionLoss(VAELosses(perceptual=1.0))(as_slices(y), as_slices(x))
    assert float(volume) == pytest.approx(float(slices), rel=1e-5)


def test_all_terms_off_is_refused() -> None:
    with pytest.raises(ConfigError, match="pixel"):
        VAELosses(**NONE)


def test_hinge_losses() -> None:
    assert float(discriminator_loss(torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0]))) == 0.5 * (0.5 + 1.0)
    assert float(generator_loss(torch.tensor([2.0, 4.0]))) == -3


def test_the_adaptive_weight_makes_both_gradients_equal() -> None:
    layer = torch.tensor([1.0, 2.0], requires_grad=True)
    wanted, given = (layer * 3).sum(), (layer * 0.1).sum()
    weight = adaptive_weight(wanted, given, layer)
    (slope,) = torch.autograd.grad(weight * given, layer)
    assert torch.allclose(slope, torch.tensor([3.0, 3.0]), rtol=1e-2)
