"""SSIM and MS-SSIM against the common implementations."""

from __future__ import annotations

import pytest
import pytorch_msssim
import torch
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure as torchmetrics_ssim

from medgen.errors import DataError
from medgen.nets.perception.similarity import MS_SSIM_WEIGHTS, ms_ssim, scales_that_fit, ssim


def pair(*shape: int, noise: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(shape, generator=generator)
    return a, (a + noise * torch.randn(shape, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize("shape", [(3, 1, 40, 52), (2, 3, 33, 33), (2, 1, 16, 20, 18)])
def test_ssim_equals_the_common_implementations(shape: tuple[int, ...]) -> None:
    a, b = pair(*shape)
    ours = ssim(a, b, 1.0)
    theirs = pytorch_msssim.ssim(a, b, data_range=1.0, size_average=False)
    assert torch.allclose(ours, theirs, atol=1e-5)
    if a.ndim == 4:
        _, full = torchmetrics_ssim(a, b, data_range=1.0, return_full_image=True)
        assert torch.allclose(ours.mean(), full[..., 5:-5, 5:-5].mean(), atol=1e-5)
        for mine, x, y in zip(ours, a.numpy(), b.numpy(), strict=True):
            reference = structural_similarity(
                x, y, data_range=1.0, gaussian_weights=True, use_sample_covariance=False, channel_axis=0
            )
            assert float(mine) == pytest.approx(reference, abs=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_ms_ssim_equals_the_common_implementation_at_five_scales(channels: int) -> None:
    a, b = pair(2, channels, 176, 190)
    theirs = pytorch_msssim.ms_ssim(a, b, data_range=1.0, size_average=False)
    assert torch.allclose(ms_ssim(a, b, 1.0), theirs, atol=1e-5)


def test_fewer_scales_serve_small_images() -> None:
    a, b = pair(2, 1, 64, 64)
    weights = MS_SSIM_WEIGHTS[: scales_that_fit(64)]
    theirs = (
        pytorch_msssim.ms_ssim(a, b, data_range=1.0, size_average=False, win_size=11, weights=list(weights))
        if min(a.shape[-2:]) > 160
        else None
    )
    assert len(weights) == 3
    assert theirs is None
    assert torch.all((ms_ssim(a, b, 1.0, weights=weights) > 0.5) & (ms_ssim(a, b, 1.0, weights=weights) < 1))
    assert [scales_that_fit(side) for side in (5, 10, 11, 21, 22, 160, 161, 4000)] == [0, 0, 1, 2, 2, 4, 5, 5]
    for side in (11, 21, 41, 161):
        c, d = pair(1, 1, side, side)
        assert torch.isfinite(ms_ssim(c, d, 1.0, weights=MS_SSIM_WEIGHTS[: scales_that_fit(side)])).all()


def test_equal_images_score_one_and_scale_with_the_range() -> None:
    a, b = pair(2, 1, 32, 32)
    assert torch.allclose(ssim(a, a, 1.0), torch.ones(2))
    assert torch.allclose(ssim(2 * a - 1 + 1, 2 * b - 1 + 1, 2.0), ssim(a, b, 1.0), atol=1e-6)


def test_gradients_are_exact_and_half_precision_is_lifted() -> None:
    a, b = (x.double().requires_grad_() for x in pair(1, 1, 13, 12))
    assert torch.autograd.gradcheck(lambda x, y: ssim(x, y, 1.0), (a, b))
    low = ssim(a.detach().bfloat16(), b.detach().bfloat16(), 1.0)
    assert low.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x, y = a.detach().float(), b.detach().float()
        inside = ssim(x, y, 1.0)
    assert torch.equal(inside, ssim(x, y, 1.0))


def test_images_below_the_window_are_refused() -> None:
    with pytest.raises(DataError, match="smaller than the SSIM window"):
        ssim(*pair(1, 1, 10, 30), 1.0)
    with pytest.raises(DataError, match="two equal"):
        ssim(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 17), 1.0)
