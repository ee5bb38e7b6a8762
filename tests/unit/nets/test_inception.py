from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medgen.errors import DataError
from medgen.nets.perception.inception import CLASSES, FEATURES, InceptionV3, resize


def formula(network: InceptionV3) -> dict[str, Tensor]:
    """Weights of a fixed formula, the same on every machine."""
    weights = {}
    for number, (name, value) in enumerate(sorted(network.state_dict().items())):
        if name.endswith("num_batches_tracked"):
            continue
        index = torch.arange(value.numel(), dtype=torch.float64)
        noise = (torch.sin(index * 12.9898 + number * 78.233) * 43758.5453).frac().reshape(value.shape)
        if name.endswith(("bn.weight", "running_var")):
            weights[name] = (1 + 0.3 * noise).float()
        elif value.ndim > 1:
            weights[name] = (noise * (6 / value[0].numel()) ** 0.5).float()
        else:
            weights[name] = (0.1 * noise).float()
    return weights


def pictures() -> Tensor:
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(75.0), indexing="ij")
    disc = torch.where((x - 30) ** 2 + (y - 25) ** 2 < 300, 220.0, 30.0)
    bands = torch.stack([128 + 100 * torch.sin(x / 5 + y / 9), (3 * x + y) % 256, disc])
    image = bands[None].round().clamp(0, 255).to(torch.uint8)
    return torch.cat([image, 255 - image.flip(-1)])


@pytest.fixture(scope="module")
def network() -> InceptionV3:
    network = InceptionV3().eval().requires_grad_(False)
    network.load(formula(network))
    return network


def test_features_and_logits_are_those_of_the_reference_port(network: InceptionV3) -> None:
    """Figures taken with torch-fidelity 0.4.0, which agrees with the TensorFlow graph, on these weights and images."""
    features = network(pictures())
    assert features.shape == (2, FEATURES)
    expected = [
        [0.54002, 0.65753, 0.11986, 0.11751, 0.02544, 0.39353, 0.19631, 0.3925],
        [0.45992, 0.60225, 0.19249, 0.10157, 0.02311, 0.34205, 0.25329, 0.26118],
    ]
    np.testing.assert_allclose(features[:, ::256], expected, atol=3e-5)
    np.testing.assert_allclose(features.mean(1), [0.2242302, 0.1977112], atol=1e-5)
    np.testing.assert_allclose(features.std(1), [0.3116969, 0.276506], atol=1e-5)
    logits = network.logits(features)
    assert logits.shape == (2, CLASSES)
    some = [0.1826, -0.1687, -0.2381, -1.3455, -0.8772, -1.6365, -0.4998, 0.2139]
    np.testing.assert_allclose(logits[0, ::126], some, atol=2e-4)


def test_the_bands_are_red_green_blue_in_this_order(network: InceptionV3) -> None:
    network.Conv2d_1a_3x3.conv.weight[:, 1:] = 0  # sees the first band alone
    images = pictures()
    other = images.clone()
    other[:, 1:] = 255 - other[:, 1:]
    assert torch.equal(network(images), network(other))
    assert not torch.allclose(network(images), network(images.flip(1)), atol=1e-3)
    network.load(formula(network))


def test_images_are_resized_on_the_grid_of_tensorflow(network: InceptionV3) -> None:
    ramp = torch.arange(64.0).expand(1, 3, 64, 64)
    place = np.arange(299) * 64 / 299  # pixel i lies at i * 64 / 299; half-pixel centres would add 0.39
    expected = np.interp(place, np.arange(64), np.arange(64))
    np.testing.assert_allclose(resize(ramp, 299)[0, 0, 7], expected, atol=1e-4)
    np.testing.assert_allclose(resize(ramp.mT, 299)[0, 0, :, 7], expected, atol=1e-4)
    large = torch.rand(1, 1, 598, 598)
    torch.testing.assert_close(resize(large, 299), large[:, :, ::2, ::2])  # no low-pass
    resized = resize(pictures().float(), 299)
    torch.testing.assert_close(network(pictures()), network(resized))


def test_other_weights_are_refused(network: InceptionV3) -> None:
    weights = formula(network)
    with pytest.raises(DataError, match=r"missing, such as Mixed_7c"):
        network.load({name: value for name, value in weights.items() if "Mixed_7c" not in name})
    with pytest.raises(DataError, match="1000 classes; the network of FID has 1008"):
        network.load({**weights, "fc.weight": torch.zeros(1000, 2048)})
    with pytest.raises(DataError, match=r"fc.bias is \(7,\)"):
        network.load({**weights, "fc.bias": torch.zeros(7)})
    with pytest.raises(DataError, match="takes colour images"):
        network(torch.zeros(1, 1, 64, 64))
