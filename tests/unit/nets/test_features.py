"""Fixed features: closed-form filters, a distance that grows with damage, Frechet features that see position."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from medgen.errors import ConfigError, DataError
from medgen.nets.perception.features import FixedFeatures, filter_bank, perceptual_distance


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disc(x: float, y: float, radius: float, size: int = 64) -> torch.Tensor:
    """A bright disc with a soft rim on a dark ground, (1, 1, size, size)."""
    axis = (torch.arange(size) + 0.5) / size
    distance = ((axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2).sqrt()
    return (2 * torch.sigmoid((radius - distance) * size) - 1)[None, None]


def scene(seed: int = 0) -> torch.Tensor:
    """A few discs: structure at several scales."""
    numbers = torch.rand(6, 3, generator=generator(seed)).tolist()
    return torch.stack([disc(x, y, 0.04 + 0.12 * r) for x, y, r in numbers]).amax(dim=0)


def blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    axis = torch.arange(-12, 13.0)
    row = torch.exp(-0.5 * (axis / sigma) ** 2)
    row = row / row.sum()
    return F.conv2d(F.pad(x, (12,) * 4, mode="replicate"), torch.outer(row, row)[None, None])


@pytest.fixture(scope="module")
def features() -> FixedFeatures:
    return FixedFeatures()


def test_filters_have_no_mean_and_unit_weight():
    bank = filter_bank(8)
    assert bank.shape == (17, 1, 11, 11)
    torch.testing.assert_close(bank.sum(dim=(1, 2, 3)), torch.zeros(17, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(bank.abs().sum(dim=(1, 2, 3)), torch.ones(17, dtype=torch.float64))
    # Orientation 4 of 8 is orientation 0 turned by 90 degrees.
    torch.testing.assert_close(bank[4, 0], bank[0, 0].T)
    torch.testing.assert_close(bank[12, 0], bank[8, 0].T)


def test_digest_is_pinned_and_tells_configurations_apart(features):
    assert features.digest == "67f3a4d1d14bd8c3ce76305905d924439f6e5e990ff0a56df8afa8d616a024de"
    assert FixedFeatures(3, 8).digest != features.digest != FixedFeatures(4, 6).digest


def test_random_state_plays_no_part(features):
    torch.manual_seed(1)
    first = FixedFeatures().pooled(scene())
    torch.manual_seed(2)
    torch.testing.assert_close(FixedFeatures().pooled(scene()), first, atol=0, rtol=0)


def test_responses_are_plain_convolutions(features):
    image = scene()
    expected = F.conv2d(F.pad(image, (5,) * 4, mode="replicate"), filter_bank(8).float())
    torch.testing.assert_close(torch.cat(features._responses(image), dim=1), expected, atol=1e-6, rtol=1e-5)


def test_constant_image_has_no_response(features):
    for level in features.maps(torch.full((1, 1, 64, 64), -1.0)):
        assert level.abs().max() < 0.02


def test_oriented_energy_is_greatest_across_the_edge(features):
    step = torch.ones(1, 1, 64, 64)
    step[..., :32] = -1
    vertical = features.maps(step)[0][0, :, 32, 32]
    horizontal = features.maps(step.mT)[0][0, :, 32, 32]
    assert vertical[17:25].argmax() == 0
    assert horizontal[17:25].argmax() == 4


@pytest.mark.parametrize("seed", range(4))
def test_distance_grows_with_each_kind_of_damage(features, seed):
    image = scene(seed)
    noise = torch.randn(image.shape, generator=generator(seed))
    for damaged in (
        [blur(image, sigma) for sigma in (0.5, 1, 2, 4)],
        [image + noise * sigma for sigma in (0.02, 0.05, 0.1, 0.3)],
        [image.roll(shift, dims=-1) for shift in (1, 2, 4)],
    ):
        distances = [0.0] + [perceptual_distance(features, image, other).item() for other in damaged]
        assert distances == sorted(distances)
        assert distances[1] > 1e-5
        assert distances[-1] > 0.02


def test_distance_is_symmetric_zero_and_pulls_towards_the_target(features):
    a, b = scene(0), scene(1)
    assert perceptual_distance(features, a, a) == 0
    torch.testing.assert_close(perceptual_distance(features, a, b), perceptual_distance(features, b, a))
    x = b.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.05)
    start = perceptual_distance(features, a, b).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = perceptual_distance(features, a, x)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3 * start
    assert torch.isfinite(x.grad).all()


def test_gradient_is_finite_on_flat_images(features):
    x = torch.zeros(1, 1, 32, 32, requires_grad=True)
    perceptual_distance(features, x, scene()[..., :32, :32]).backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().max() > 0


def test_pooled_features_see_position_size_and_count(features):
    base = features.pooled(disc(0.3, 0.3, 0.1))
    assert base.shape == (1, 468)
    same = features.pooled(disc(0.301, 0.3, 0.1))
    for other in (disc(0.7, 0.3, 0.1), disc(0.3, 0.7, 0.1), disc(0.3, 0.3, 0.2), scene()):
        assert (features.pooled(other) - base).norm() > 20 * (same - base).norm()


def test_pooled_features_see_blur_noise_and_brightness(features):
    images = torch.cat([scene(seed) + 0.02 * torch.randn(1, 1, 64, 64, generator=generator(seed)) for seed in range(8)])
    base = features.pooled(images)
    for other in (blur(images, 0.8), images + 0.1 * torch.randn(images.shape, generator=generator(9)), images + 0.1):
        # The mean over images is what a Frechet distance compares, so the shift must not average out.
        shift = (features.pooled(other) - base).mean(dim=0)
        assert shift.square().sum() > 0.5


def test_channels_are_averaged_and_dtype_is_float32(features):
    gray = scene()
    pooled = features.pooled(gray.expand(1, 3, -1, -1))
    torch.testing.assert_close(pooled, features.pooled(gray))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(features.pooled(gray), features.pooled(gray.bfloat16()), atol=0.2, rtol=0.1)
        assert features.pooled(gray).dtype == torch.float32


@pytest.mark.parametrize("size", [(16, 16), (17, 40), (96, 33)])
def test_any_size_from_16(features, size):
    pooled = features.pooled(torch.rand(2, 1, *size, generator=generator()))
    assert pooled.shape == (2, 468)
    assert torch.isfinite(pooled).all()


def test_too_small_or_misshapen_images_are_refused(features):
    with pytest.raises(DataError, match="at least 16"):
        features.maps(torch.zeros(1, 1, 15, 64))
    with pytest.raises(DataError, match="expected"):
        features.pooled(torch.zeros(1, 1, 4, 64, 64))
    with pytest.raises(ConfigError, match="even"):
        FixedFeatures(orientations=3)


def test_holds_no_weights_to_save(features):
    assert not features.state_dict()
    assert not list(features.parameters())
