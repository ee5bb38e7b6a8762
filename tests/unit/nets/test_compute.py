"""Precision and layout: what is promised to be float32 is, whatever stands around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_pre_hook

from medgen.nets.compute import channels_last, exact_float32, lay_channels_last
from medgen.nets.perception.features import FixedFeatures
from medgen.nets.perception.inception import InceptionV3
from medgen.nets.perception.lpips import LPIPS
from medgen.nets.perception.similarity import ms_ssim, ssim

NEW = hasattr(torch.backends.cudnn, "conv")
LOOSE: list[tuple[Any, str, object]] = (
    [
        (torch.backends.cudnn.conv, "fp32_precision", "tf32"),
        (torch.backends.cuda.matmul, "fp32_precision", "tf32"),
        (torch.backends.mkldnn.conv, "fp32_precision", "bf16"),
        (torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
    ]
    if NEW
    else [(torch.backends.cudnn, "allow_tf32", True), (torch.backends.cuda.matmul, "allow_tf32", True)]
)
EXACT = "ieee" if NEW else False


def settings() -> list[object]:
    return [getattr(owner, name) for owner, name, _ in LOOSE]


@pytest.fixture
def loose() -> Iterator[None]:
    """Let torch multiply float32 as loosely as it can."""
    before = settings()
    for owner, name, value in LOOSE:
        setattr(owner, name, value)
    yield
    for (owner, name, _), value in zip(LOOSE, before, strict=True):
        setattr(owner, name, value)


def test_settings_are_exact_inside_and_as_they_were_outside(loose: None) -> None:
    outside = settings()
    assert EXACT not in outside
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with exact_float32():
            assert settings() == [EXACT] * len(LOOSE)
            assert not torch.is_autocast_enabled("cpu")
            with exact_float32():
                pass
            assert settings() == [EXACT] * len(LOOSE)
        assert torch.is_autocast_enabled("cpu")
    assert settings() == outside
    with pytest.raises(ValueError, match="inside"), exact_float32():
        raise ValueError("inside")
    assert settings() == outside


def images() -> Tensor:
    return torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def inception() -> Callable[[], Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = InceptionV3().eval()
    return lambda: network.logits(network(images().expand(-1, 3, -1, -1)))


def lpips() -> Callable[[], Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = LPIPS("alex").eval()
    nn.init.ones_(network.heads[0])
    return lambda: network(images(), images().flip(0))


FIGURES: dict[str, Callable[[], Callable[[], Any]]] = {
    "maps": lambda: lambda: torch.cat([x.flatten() for x in FixedFeatures().maps(images())]),
    "pooled": lambda: lambda: FixedFeatures().pooled(images()),
    "inception": inception,
    "lpips": lpips,
    "ssim": lambda: lambda: ssim(images(), images().flip(0), 2.0),
    "ms-ssim": lambda: lambda: ms_ssim(images(), images().flip(0), 2.0, weights=(0.5, 0.5)),
}


@pytest.mark.parametrize("name", FIGURES)
@torch.no_grad()
def test_figures_are_the_same_bits_whatever_stands_around(
    name: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    figure = FIGURES[name]()
    expected = figure()
    request.getfixturevalue("loose")
    seen: list[list[object]] = []

    def noting(honest: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments, **options: (seen.append(settings()), honest(*arguments, **options))[1]

    monkeypatch.setattr(F, "conv2d", noting(F.conv2d))
    monkeypatch.setattr(Tensor, "__matmul__", noting(Tensor.__matmul__))
    layers = register_module_forward_pre_hook(
        lambda module, arguments: None if any(module.children()) else seen.append(settings())
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(figure(), expected)
    layers.remove()
    assert {row == [EXACT] * len(LOOSE) for row in seen} == {True}


def test_channels_lie_side_by_side_in_images_and_volumes() -> None:
    for ndim, layout in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        x = torch.randn(2, 3, *[4] * (ndim - 2))
        assert torch.equal(channels_last(x), x)
        assert channels_last(x).is_contiguous(memory_format=layout)
    assert channels_last(torch.ones(3, 2)).is_contiguous()
    network = nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1), nn.Conv3d(4, 2, 3, padding=1), nn.Flatten(), nn.Linear(54, 1)
    )
    x = torch.randn(2, 2, 3, 3, 3)
    before = network(x)
    lay_channels_last(network)
    torch.testing.assert_close(network(x), before)
    assert network[0](x).is_contiguous(memory_format=torch.channels_last_3d)
