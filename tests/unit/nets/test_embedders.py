"""Embeddings of time and of the condition vector."""

from __future__ import annotations

import msgspec
import pytest
import torch

from medgen.errors import DataError
from medgen.nets.embedders import (
    PositionMap,
    TimeEmbedder,
    VectorEmbedder,
    VectorMap,
    sinusoidal_embedding,
    with_octaves,
)
from medgen.nets.options import UNetConfig
from medgen.nets.unet import UNet


@pytest.mark.parametrize("width", [32, 33, 128])
def test_sinusoids_equal_diffusers(width):
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    time = torch.tensor([0.0, 0.5, 1.0, 17.25, 500.0, 999.0])
    expected = embeddings.get_timestep_embedding(time, width, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(sinusoidal_embedding(time, width), expected, atol=1e-5, rtol=1e-5)


def test_sinusoids_keep_precision_for_half_precision_networks():
    embedder = TimeEmbedder(32, 64).bfloat16()
    time = torch.tensor([998.0, 999.0])
    first, second = embedder(time)
    assert embedder(time).dtype == torch.bfloat16
    assert (first - second).abs().max() > 0  # 998 and 999 are one number in bfloat16


def test_null_is_learned_and_differs_from_every_vector():
    torch.manual_seed(0)
    embedder = VectorEmbedder(6, 16, 24)
    vectors = torch.cat([torch.zeros(1, 6), torch.ones(1, 6), torch.rand(30, 6)])
    null = embedder(None, None, 1)
    assert (embedder(vectors, None, 32) - null).norm(dim=1).min() > 1e-3
    assert embedder.null.requires_grad


def test_keep_picks_sample_by_sample():
    torch.manual_seed(0)
    embedder = VectorEmbedder(6, 16, 24)
    vector = torch.rand(3, 6)
    keep = torch.tensor([True, False, True])
    mixed = embedder(vector, keep, 3)
    torch.testing.assert_close(mixed[0], embedder(vector, None, 3)[0])
    torch.testing.assert_close(mixed[1], embedder.null)
    mixed[1].sum().backward()
    assert all((p.grad == 0).all() for p in embedder.mlp.parameters())
    assert (embedder.null.grad == 1).all()


def test_a_vector_of_the_wrong_length_is_refused():
    with pytest.raises(DataError, match=r"\(2, 5\).*\(2, 6\)"):
        VectorEmbedder(6, 16, 24)(torch.rand(2, 5), None, 2)


def test_octaves_are_sines_and_cosines_beside_the_numbers():
    vector = torch.rand(4, 3)
    waves = with_octaves(vector, 2)
    assert waves.shape == (4, 15)
    assert torch.equal(with_octaves(vector, 0), vector)
    torch.testing.assert_close(waves[:, :3], vector)
    torch.testing.assert_close(waves[:, 9:12], (2 * torch.pi * vector).sin())
    torch.testing.assert_close(waves[:, 12:], (2 * torch.pi * vector).cos())


def test_one_linear_layer_can_mark_the_place_that_a_vector_names():
    """The weights that make cos(a (x - x0)) are known; with them the map peaks at x0 in x and is flat in y."""
    octaves, drawing = 3, VectorMap(1, 3, 1, dims=2)
    waves = 1 + 2 * octaves
    with torch.no_grad():
        drawing.weigh.weight.zero_()
        drawing.weigh.bias.zero_()
        weight = drawing.weigh.weight.view(
            2 * waves, waves
        )  # (waves of a place: y and x alternate, waves of the vector)
        for wave in range(1, waves):
            weight[2 * wave + 1, wave] = 1.0
    for place in (0.2, 0.7):
        image = drawing(torch.tensor([[place]]), None, (4, 50))[0, 0]
        assert abs(float((image[0].argmax() + 0.5) / 50) - place) <= 0.02
        torch.testing.assert_close(image[0], image[3])
    nothing = drawing(torch.tensor([[0.2]]), torch.tensor([False]), (4, 50))
    assert not nothing.any()


def test_positions_are_coordinates_and_their_waves():
    positions = PositionMap(5, 2)
    told = positions((4, 6))
    assert told.shape == (1, 5, 4, 6)
    y, x = 1.5 / 4, 4.5 / 6
    waves = with_octaves(torch.tensor([[y, x]]), 3)
    torch.testing.assert_close(told[0, :, 1, 4], positions.weigh(waves)[0])


def test_only_with_positions_is_the_middle_of_an_even_image_told_apart():
    config = UNetConfig(
        in_channels=1, out_channels=1, widths=(8,), blocks=1, attention=("none",), mid_attention="none", time_width=8,
        groups=4,
    )  # fmt: skip
    for told in (False, True):
        torch.manual_seed(0)
        network = UNet(msgspec.structs.replace(config, positions=told)).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
            row = network(torch.ones(1, 1, 64, 64), torch.tensor([3.0]))[
                0, 0, 32, 28:36
            ]  # no margin is seen from there
        assert (float(row.max() - row.min()) > 1e-3) == told
