from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from medgen.errors import DataError
from medgen.nets.perception.lpips import LPIPS


def random_weights(backbone: str) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = LPIPS(backbone)
        weights = {name: value.clone() for name, value in network.features.state_dict(prefix="features.").items()}
        heads = {f"lin{i}.weight": torch.rand_like(head) for i, head in enumerate(network.heads)}
    return weights | heads


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, torch.Tensor]], nn.Module]:
    """The network of torchmetrics, which asks torchvision for its backbone; so a stand-in hands ours over."""

    def build(backbone: str, weights: dict[str, torch.Tensor]) -> nn.Module:
        import torchmetrics.functional.image.lpips as theirs

        features = LPIPS(backbone).features
        features.load_state_dict({n.removeprefix("features."): w for n, w in weights.items() if "features" in n})
        torchvision = ModuleType("torchvision")
        name = {"alex": "alexnet", "vgg": "vgg16"}[backbone]
        made = {name: lambda weights: SimpleNamespace(features=features)}
        torchvision.models = SimpleNamespace(**made)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "torchvision", torchvision)
        monkeypatch.setattr(theirs, "_TORCHVISION_AVAILABLE", True)
        network = theirs._LPIPS(pretrained=False, net=backbone, pnet_rand=True, use_dropout=False)
        for index, head in enumerate(network.lins):
            head.model[0].weight.data = weights[f"lin{index}.weight"]
        return network.eval()

    return build


@pytest.mark.parametrize("backbone", ["alex", "vgg"])
def test_agrees_with_torchmetrics(
    backbone: str, reference: Callable[[str, dict[str, torch.Tensor]], nn.Module]
) -> None:
    weights = random_weights(backbone)
    random = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 3, 64, 64, generator=random) * 2 - 1 for _ in range(2))
    ours = LPIPS.of_weights(weights, "weights")
    assert ours.backbone == backbone
    expected = reference(backbone, weights)(a, b).flatten()
    assert torch.allclose(ours(a, b), expected, rtol=1e-4)
    assert expected.min() > 0
    assert torch.equal(ours(a, a), torch.zeros(2))
    assert not torch.allclose(ours(a.flip(1), b.flip(1)), expected, rtol=1e-3)  # the order of the bands counts


def test_gray_is_three_equal_bands_and_published_names_are_known() -> None:
    weights = random_weights("alex")
    published = {
        name.replace(".weight", ".model.1.weight") if "lin" in name else name: w for name, w in weights.items()
    }
    gray = torch.rand(2, 2, 1, 48, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    one, other = LPIPS.of_weights(weights, "a"), LPIPS.of_weights(published, "b")
    assert one.digest == other.digest
    assert torch.equal(one(*gray), other(*gray.expand(-1, -1, 3, -1, -1)))


def test_wrong_weights_and_images_are_named() -> None:
    weights = random_weights("alex")
    lacking = {name: value for name, value in weights.items() if name != "lin3.weight"}
    with pytest.raises(DataError, match=r"x.safetensors: no 'lin3.weight'"):
        LPIPS.of_weights(lacking, "x.safetensors")
    with pytest.raises(DataError, match="not LPIPS weights"):
        LPIPS.of_weights(weights | {"lin0.weight": torch.ones(1, 3, 1, 1)}, "x")
    network = LPIPS.of_weights(weights, "x")
    for shape in ((1, 1, 16, 16), (1, 2, 64, 64)):
        with pytest.raises(DataError, match="at least 32"):
            network(torch.zeros(shape), torch.zeros(shape))
