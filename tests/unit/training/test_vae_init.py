"""Where a VAE begins: a folder in the layout of diffusers, of colour for grey images, its encoder kept or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medgen.artifacts.model_file import open_model
from medgen.config import convert, resolve
from medgen.errors import ConfigError, DataError
from medgen.nets.options import VAEConfig
from medgen.nets.vae import VAE, to_grey
from medgen.training.learners.vae import VAELearner, train_vae
from medgen.training.learners.vae_options import TrainVAEOptions, VAELosses
from medgen.training.loop.run import Run

RunOf = Callable[..., Run]
SmallVAE = Callable[..., TrainVAEOptions]


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAE of colour images with attention and quant convolutions, as Stable Diffusion has."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    path = tmp_path_factory.mktemp("sd") / "vae"
    AutoencoderKL(block_out_channels=[8, 16], latent_channels=2, norm_num_groups=4, **blocks).save_pretrained(path)
    return path


def test_a_grey_vae_answers_as_the_colour_one_to_equal_channels() -> None:
    config = VAEConfig(in_channels=3, out_channels=3, latent_channels=2, widths=(8, 16), blocks=1, quant_conv=True)
    torch.manual_seed(0)
    of_colour = VAE(config)
    ours, weights = to_grey(config, of_colour.state_dict())
    of_grey = VAE(ours)
    of_grey.load_state_dict(weights)
    x = torch.rand(2, 1, 16, 16) * 2 - 1
    with torch.inference_mode():
        theirs, own = of_colour.encode(x.expand(-1, 3, -1, -1)), of_grey.encode(x)
        torch.testing.assert_close(own.mean, theirs.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own.logvar, theirs.logvar, rtol=1e-4, atol=1e-5)
        decoded = of_colour.decode(theirs.mean).mean(1, keepdim=True)
        torch.testing.assert_close(of_grey.decode(own.mean), decoded, rtol=1e-4, atol=1e-5)
    assert of_colour.state_dict()["encoder.input.weight"].shape[1] == 3  # and the one it came from stays


def test_a_colour_folder_of_diffusers_takes_grey_images(
    images: Path, colour: Path, run_of: RunOf, small_vae: SmallVAE
) -> None:
    from diffusers import AutoencoderKL

    run = run_of("train-vae", images)
    train_vae(run, small_vae({"steps": 1, "learning_rate": 1e-12}, init=str(colour), decoder_only="with-init"))
    assert any("the mean of its channels" in line for line in run.reporter.told)
    model = open_model(run.output)
    ours = VAE(convert(VAEConfig, model.config, "vae"))
    ours.load_state_dict(model.weights())
    x = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        theirs = AutoencoderKL.from_pretrained(colour).encode(x.expand(-1, 3, -1, -1)).latent_dist.mean
        torch.testing.assert_close(ours.encode(x).mean, theirs, rtol=1e-3, atol=1e-4)


def test_with_init_keeps_an_encoder_that_is_there_and_trains_one_that_is_not(
    images: Path, colour: Path, run_of: RunOf, small_vae: SmallVAE
) -> None:
    losses = VAELosses(pixel=1.0, gradient=0.5, laplacian=0.3, ssim=0.1, kl=1e-6)
    trained = {}
    for name, init in (("kept", str(colour)), ("again", str(colour)), ("scratch", None)):
        steps = 2 if name != "again" else 1
        run = run_of("train-vae", images, name)
        train_vae(run, small_vae({"steps": steps}, init=init, decoder_only="with-init", losses=losses))
        trained[name] = open_model(run.output)
        made = trained[name].provenance.steps[-1].config["decoder_only"]
        assert made is (init is not None)
        assert {f"validation_{term}" for term in ("pixel", "gradient", "laplacian", "ssim", "kl")} <= set(
            trained[name].facts
        )
    for name, weight in trained["kept"].weights(ema=False).items():
        same = torch.equal(weight, trained["again"].weights(ema=False)[name])
        assert same == name.startswith(("encoder.", "quant.")), name
    frozen = VAELearner(small_vae(decoder_only=True))
    assert not any(weight.requires_grad for weight in frozen.model.encoder.parameters())
    with pytest.raises(ConfigError, match="name that VAE with --init"):
        train_vae(run_of("train-vae", images, "x"), small_vae(decoder_only=True))


def test_the_preset_works_with_and_without_a_folder_to_begin_from() -> None:
    for preset in ("dental-normalizer", "dental-normalizer-tiny"):
        options = resolve(TrainVAEOptions, "train-vae", tables=["train-vae"], preset=preset)
        assert options.decoder_only == "with-init"
    with pytest.raises(ConfigError, match="decoder_only"):
        resolve(TrainVAEOptions, "train-vae", tables=["train-vae"], sets=["decoder_only=maybe"])


def test_colour_images_need_a_vae_of_colour(
    write_images: Callable[..., Path], run_of: RunOf, small_vae: SmallVAE, images: Path, tmp_path: Path
) -> None:
    first = run_of("train-vae", images, "grey")
    train_vae(first, small_vae({"steps": 1}))
    from medgen.artifacts.sets import create_set, open_set

    path = tmp_path / "colour.h5"
    with open_set(images) as grey, create_set(path, grey.header) as writer:
        for case in grey:
            arrays: dict[str, Any] = {**case.arrays, "image": case["image"].repeat(3, axis=1)}
            writer.write(type(case)(case.id, arrays, case.split))
    with pytest.raises(
        DataError, match="images of 3 channels, and the VAE to begin from takes 1; preprocess with --ch"
    ):
        train_vae(run_of("train-vae", path, "colour"), small_vae({"steps": 1}, init=str(first.output)))
