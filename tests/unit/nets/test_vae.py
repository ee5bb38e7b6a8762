"""The VAE: shapes, posterior in closed form, identity at the start of each residual branch, 3-D that keeps depth."""

from __future__ import annotations

import pytest
import torch

from medgen.config import convert, plain
from medgen.errors import ConfigError, DataError
from medgen.nets.blocks import ResidualBlock
from medgen.nets.options import VAEConfig
from medgen.nets.vae import VAE, Posterior

TINY = VAEConfig(latent_channels=3, widths=(8, 16, 16), blocks=1, groups=4)
TINY_3D = VAEConfig(latent_channels=3, widths=(8, 16, 16), blocks=1, groups=4, dims=3)


def build(config: VAEConfig, seed: int = 0) -> VAE:
    torch.manual_seed(seed)
    return VAE(config)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stir(network: torch.nn.Module) -> None:
    """Make zeroed layers random, so that every branch takes part."""
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)


@pytest.mark.parametrize(
    ("config", "shape", "latent"),
    [
        (TINY, (2, 1, 16, 24), (2, 3, 4, 6)),
        (TINY_3D, (2, 1, 5, 16, 24), (2, 3, 5, 4, 6)),
        (TINY_3D, (1, 1, 1, 16, 16), (1, 3, 1, 4, 4)),
        (
            VAEConfig(in_channels=3, out_channels=3, widths=(8,), groups=4, latent_channels=4),
            (1, 3, 7, 9),
            (1, 4, 7, 9),
        ),
    ],
)
def test_shapes(config, shape, latent):
    vae = build(config)
    reconstruction, posterior = vae(randn(*shape))
    assert posterior.mean.shape == posterior.logvar.shape == latent
    assert reconstruction.shape == shape


def test_published_shape_is_256_to_8_channels_of_32():
    config = VAEConfig()
    assert config.factor == 8
    with torch.device("meta"):
        posterior = VAE(config).encode(torch.empty(1, 1, 256, 256))
    assert posterior.mean.shape == (1, 8, 32, 32)


def test_kl_in_closed_form():
    mean, logvar = randn(3, 2, 4, 4), randn(3, 2, 4, 4, seed=1)
    ours = Posterior(mean, logvar).kl()
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (logvar / 2).exp()), normal(0.0, 1.0))
    torch.testing.assert_close(ours, expected.sum(dim=(1, 2, 3)))
    assert Posterior(torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)).kl().tolist() == [0, 0]


def test_sample_follows_mean_and_variance_and_its_generator():
    posterior = Posterior(torch.full((1, 1, 200, 200), 2.0), torch.full((1, 1, 200, 200), -1.0))
    sample = posterior.sample(torch.Generator().manual_seed(0))
    assert abs(sample.mean().item() - 2) < 0.02
    assert abs(sample.var().item() - torch.tensor(-1.0).exp().item()) < 0.01
    torch.testing.assert_close(sample, posterior.sample(torch.Generator().manual_seed(0)), atol=0, rtol=0)


def test_extreme_logvar_is_clamped():
    vae = build(TINY)
    with torch.no_grad():
        vae.encoder.output.bias.fill_(1e4)
        posterior = vae.encode(randn(1, 1, 16, 16))
    assert posterior.logvar.max() == 20
    assert torch.isfinite(posterior.kl()).all()


@pytest.mark.parametrize("config", [TINY, TINY_3D])
def test_residual_branches_begin_as_zero(config):
    vae = build(config)
    blocks = [module for module in vae.modules() if isinstance(module, ResidualBlock)]
    assert len(blocks) == 3 * config.blocks + 3 * (config.blocks + 1) + 4
    for block in blocks:
        x = randn(1, block.norm1.num_channels, *[4] * config.dims)
        torch.testing.assert_close(block(x), block.shortcut(x), atol=0, rtol=0)


@pytest.mark.parametrize(
    "config",
    [TINY, TINY_3D, VAEConfig(widths=(8, 16), groups=4, blocks=1, mid_attention=True, quant_conv=True)],
)
def test_gradient_reaches_every_parameter(config):
    vae = build(config)
    stir(vae)
    reconstruction, posterior = vae(randn(2, 1, *([3] if config.dims == 3 else []), 16, 16))
    (reconstruction.square().mean() + posterior.kl().mean()).backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_learns_to_reconstruct():
    vae = build(TINY)
    axis = torch.arange(16.0)
    centres = torch.tensor([4.0, 8.0, 12.0])
    x = (2 * torch.exp(-((axis[None] - centres[:, None]) ** 2) / 8) - 1)[:, None, None].expand(-1, -1, 16, -1)
    optimizer = torch.optim.Adam(vae.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        posterior = vae.encode(x)
        loss = (vae.decode(posterior.mean) - x).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.1 * x.var()


def test_decoder_parameters_are_all_after_the_latent():
    vae = build(VAEConfig(widths=(8, 16), groups=4, quant_conv=True))
    chosen = {id(parameter) for parameter in vae.decoder_parameters()}
    for name, parameter in vae.named_parameters():
        assert (id(parameter) in chosen) == name.startswith(("decoder.", "post_quant.")), name
    assert id(vae.last_layer_weight) in chosen


def test_samples_do_not_depend_on_the_rest_of_the_batch():
    vae = build(TINY).eval()
    stir(vae)
    x = randn(3, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(vae.encode(x).mean[1:2], vae.encode(x[1:2]).mean, atol=1e-5, rtol=1e-5)


def test_each_slice_of_a_volume_sees_its_neighbours():
    vae = build(TINY_3D).eval()
    stir(vae)
    x = randn(1, 1, 5, 16, 16)
    changed = x.clone()
    changed[:, :, 2] += randn(1, 1, 16, 16, seed=1)
    with torch.no_grad():
        difference = (vae.encode(x).mean - vae.encode(changed).mean).abs().amax(dim=(0, 1, 3, 4))
    assert (difference[1:4] > 1e-4).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_half_precision_and_channels_last_stay_close(dtype):
    vae = build(TINY).eval()
    stir(vae)
    x = randn(2, 1, 16, 16).clamp(-1, 1)
    with torch.no_grad():
        expected = vae.encode(x).mean
        with torch.autocast("cpu", dtype=dtype):
            posterior = vae.encode(x)
        assert posterior.mean.dtype == torch.float32
        torch.testing.assert_close(posterior.mean, expected, atol=0.05, rtol=0.05)
        vae = vae.to(memory_format=torch.channels_last)
        torch.testing.assert_close(vae.encode(x).mean, expected, atol=1e-5, rtol=1e-4)
        vae = vae.to(dtype)
        posterior = vae.encode(x)
        torch.testing.assert_close(posterior.mean, expected, atol=0.05, rtol=0.05)
        assert vae.decode(posterior.mean).dtype == dtype


def test_wrong_images_are_refused_with_the_remedy():
    vae = build(TINY)
    with pytest.raises(DataError, match="multiples of 4; resize or crop"):
        vae.encode(torch.zeros(1, 1, 16, 18))
    with pytest.raises(DataError, match="C = 1"):
        vae.encode(torch.zeros(1, 3, 16, 16))
    with pytest.raises(DataError, match=r"\(B, C, H, W\)"):
        vae.encode(torch.zeros(1, 1, 4, 16, 16))
    with pytest.raises(DataError, match="latent"):
        vae.decode(torch.zeros(1, 4, 4, 4))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"groups": 7}, "groups = 7 does not divide"),
        ({"in_channels": 3}, "make them equal"),
        ({"widths": []}, "widths"),
        ({"blocks": 0}, "blocks"),
        ({"dims": 4}, "dims"),
    ],
)
def test_impossible_configurations_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        convert(VAEConfig, values, "test")


def test_configuration_survives_being_stored():
    assert convert(VAEConfig, plain(TINY_3D), "test") == TINY_3D
