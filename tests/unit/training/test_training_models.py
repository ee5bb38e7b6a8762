"""What the learners learn, and what their model files say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medgen.artifacts.model_file import open_model
from medgen.artifacts.sets import open_set
from medgen.config import convert
from medgen.diffusion.options import SamplingOptions, ScheduleConfig
from medgen.diffusion.sampling import sample
from medgen.diffusion.schedules import Schedule
from medgen.errors import ConfigError, DataError
from medgen.models.facts import DenoiserFacts, VAEFacts
from medgen.nets.condition import Condition
from medgen.nets.options import UNetConfig, VAEConfig
from medgen.nets.unet import UNet
from medgen.nets.vae import VAE
from medgen.training.data.conditions import present
from medgen.training.data.slices import Slices
from medgen.training.data.step import Step
from medgen.training.learners.diffusion import train_diffusion
from medgen.training.learners.diffusion_options import TrainDiffusionOptions
from medgen.training.learners.vae import standardizing, train_vae
from medgen.training.learners.vae_options import TrainVAEOptions, VAELosses
from medgen.training.loop.run import Run

RunOf = Callable[..., Run]


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAE trained for long enough to reconstruct."""
    return tmp_path_factory.mktemp("trained") / "vae.safetensors"


def test_a_vae_learns_to_reconstruct_and_measures_itself(
    images: Path, trained: Path, run_of: RunOf, tmp_path: Path, small_vae: Callable[..., TrainVAEOptions]
) -> None:
    log = tmp_path / "log.jsonl"
    run = run_of("train-vae", images, str(trained), log=log)
    train_vae(run, small_vae({"steps": 150, "batch_size": 8, "log_every": 10, "save_every": 0, "learning_rate": 4e-3}))
    losses = [line["loss"] for line in map(json.loads, log.read_text().splitlines()[1:]) if "loss" in line]
    assert losses[-1] < 0.35 * losses[0]

    model = open_model(trained, kind="vae")
    facts = VAEFacts.read(model.facts, "vae")
    with open_set(images, random_access=True) as stored:
        x = Slices(stored, "val", 0).at(range(10))["x"]
        train = Slices(stored, "train", 0)
        mean_image = train.at(range(len(train)))["x"].mean(0)
        assert facts.intensity == stored.header.intensity
        assert model.digests().items() >= stored.digests().items()
    vae = VAE(convert(VAEConfig, model.config, "vae"))
    vae.load_state_dict(model.weights())
    with torch.inference_mode():
        z = vae.encode(x).mean
        y = vae.decode(z).clamp(-1, 1)
    gain = 10 * torch.log10((x - mean_image).square().mean() / (x - y).square().mean())
    assert gain > 5  # dB above always answering with the mean training image
    assert model.facts["reconstruction_psnr"] == pytest.approx(
        float(10 * torch.log10(4 / (x - y).square().mean())), abs=2
    )
    seen = facts.latent_space.seen(z)
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(2), rtol=0, atol=0.3)
    torch.testing.assert_close(seen.std((0, 2, 3)), torch.ones(2), rtol=0, atol=0.3)
    assert run.reporter.report["reconstruction_ssim"] == model.facts["reconstruction_ssim"] > 0.6


def test_a_slice_of_nan_that_was_not_drawn_does_not_decide_how_latents_are_scaled(
    write_images: Callable[..., Path], run_of: RunOf, small_vae: Callable[..., TrainVAEOptions]
) -> None:
    run = run_of("train-vae", write_images("bad.h5", 12, bad=float("nan")))
    train_vae(run, small_vae({"steps": 1, "batch_size": 1}))
    facts = VAEFacts.read(open_model(run.output).facts, "vae")
    assert np.isfinite([facts.latent_scale, facts.latent_shift]).all()


def test_each_channel_is_standardized_but_one_that_holds_nothing_stays_small() -> None:
    noise = torch.randn(3, 10_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stds = torch.tensor([[2.0], [0.5], [1e-4]], dtype=torch.float64)
    channels = 3.0 + stds * (noise - noise.mean(1, keepdim=True)) / noise.std(1, correction=0, keepdim=True)
    space = standardizing(channels)
    assert space.shift == pytest.approx((3.0, 3.0, 3.0))
    assert space.scale == pytest.approx((0.5, 2.0, 1 / (0.05 * 2.0)))
    assert standardizing(torch.ones(2, 5)).scale == pytest.approx((1e6, 1e6))


def test_decoder_only_leaves_the_encoder_as_it_was(
    images: Path, trained: Path, run_of: RunOf, small_vae: Callable[..., TrainVAEOptions]
) -> None:
    if not trained.exists():
        train_vae(run_of("train-vae", images, str(trained)), small_vae())
    options = small_vae(init=str(trained), decoder_only=True, losses=VAELosses(adversarial=0.1))
    train_vae(run_of("train-vae", images), options)
    before, after = open_model(trained), open_model(run_of("x", images).output)
    assert after.config == before.config
    for ema in (True, False):
        old, new = before.weights(ema=True), after.weights(ema=ema)
        for name, weight in new.items():
            same = torch.equal(weight, old[name])
            assert same == name.startswith(("encoder.", "quant.")), name
    assert before.provenance.id in after.digests()


def test_a_vae_begins_from_a_folder_in_the_layout_of_diffusers(
    images: Path, run_of: RunOf, tmp_path: Path, small_vae: Callable[..., TrainVAEOptions]
) -> None:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    vae = AutoencoderKL(
        in_channels=1, out_channels=1, block_out_channels=[8, 16], latent_channels=2, norm_num_groups=4, **blocks
    )
    vae.save_pretrained(tmp_path / "sd")
    run = run_of("train-vae", images)
    train_vae(run, small_vae({"steps": 1, "learning_rate": 1e-12}, init=str(tmp_path / "sd")))
    model = open_model(run.output)
    ours = VAE(convert(VAEConfig, model.config, "vae"))
    ours.load_state_dict(model.weights())
    x = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(ours.encode(x).mean, vae.encode(x).latent_dist.mean, atol=1e-4)


def test_a_denoiser_follows_its_vector(
    latents: Path, run_of: RunOf, small_diffusion: Callable[..., TrainDiffusionOptions]
) -> None:
    run = run_of("train-diffusion", latents)
    options = small_diffusion(
        {"steps": 120, "batch_size": 16, "save_every": 0, "learning_rate": 4e-3},
        objective="v",
        schedule=ScheduleConfig(kind="cosine"),
    )
    train_diffusion(run, options)
    model = open_model(run.output, kind="denoiser")
    facts = DenoiserFacts.read(model.facts, "denoiser")
    assert (facts.space, facts.shape, facts.vector_fields) == ("latent", (2, 8, 8), ("on", "x"))
    assert (facts.vae_digest, facts.latent_scale, facts.latent_shift) == ("abc", 0.5, 1.0)
    assert (facts.objective, convert(ScheduleConfig, facts.schedule, "facts")) == ("v", options.schedule)
    assert facts.spacing == (1.0, 1.0, 1.0)

    network = UNet(convert(UNetConfig, model.config, "denoiser"))
    network.load_state_dict(model.weights())
    schedule = Schedule(options.schedule)
    noise = torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    on = (torch.arange(64) < 32).float()
    vector = torch.stack([on, torch.zeros(64)], dim=1)

    def answers(condition: torch.Tensor | None) -> torch.Tensor:
        def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return network(x, t, Condition(vector=condition))

        with torch.inference_mode():
            x0 = sample(denoise, noise, schedule, options.objective, SamplingOptions(steps=12))
        return x0.mean((1, 2, 3)).sign()

    given = answers(vector)
    assert float((given[:32] == 1).float().mean()) > 0.9
    assert float((given[32:] == -1).float().mean()) > 0.9
    assert float((answers(None) == 1).float().mean()) < 0.6  # a quarter of the data


def test_conditions_are_dropped_for_each_sample_on_its_own() -> None:
    kept = torch.stack([present(Step(0, index, 0, 16, 16), 0.3) for index in range(400)]).float()  # (steps, B)
    assert float(kept.mean()) == pytest.approx(0.7, abs=4 * np.sqrt(0.21 / 6400))
    # Batch means scatter as independent samples do; drawn by the batch, their variance would be 16 times as large.
    assert float(kept.mean(1).var()) == pytest.approx(0.21 / 16, rel=0.3)
    assert abs(float(torch.corrcoef(kept[:, :2].T)[0, 1])) < 0.2
    halves = torch.cat([present(Step(0, 7, offset, 8, 16), 0.3) for offset in (0, 8)])
    assert torch.equal(halves, kept[7].bool())
    assert present(Step(0, 0, 0, 16, 16, "validation"), 0.3).all()


def test_images_and_unlabelled_sets_can_be_trained_on(
    images: Path, run_of: RunOf, small_diffusion: Callable[..., TrainDiffusionOptions]
) -> None:
    run = run_of("train-diffusion", images)
    train_diffusion(run, small_diffusion({"steps": 1}, objective="flow", schedule=ScheduleConfig(kind="flow")))
    facts = DenoiserFacts.read(open_model(run.output).facts, "denoiser")
    assert (facts.space, facts.shape, facts.stored_dtype) == ("image", (1, 32, 32), "int16")
    with pytest.raises(ConfigError, match="eps"):
        small_diffusion(schedule=ScheduleConfig(kind="flow"))


def test_a_denoiser_begins_from_another_of_its_shape(
    images: Path, latents: Path, run_of: RunOf, small_diffusion: Callable[..., TrainDiffusionOptions]
) -> None:
    first = run_of("train-diffusion", latents, "first")
    train_diffusion(first, small_diffusion({"ema": 0.0}))
    still = small_diffusion({"steps": 1, "learning_rate": 1e-12, "ema": 0.0}, init=str(first.output))
    train_diffusion(run_of("train-diffusion", latents, "second"), still)
    before, after = open_model(first.output), open_model(run_of("x", latents, "second").output)
    for name, weight in after.weights().items():
        assert torch.allclose(weight, before.weights()[name], atol=1e-6), name
    assert before.provenance.id in after.digests()
    with pytest.raises(DataError, match="do not fit the network"):
        train_diffusion(run_of("train-diffusion", images, "third"), still)


def test_validation_repeats_itself_and_uses_the_average(
    latents: Path, run_of: RunOf, tmp_path: Path, small_diffusion: Callable[..., TrainDiffusionOptions]
) -> None:
    def curve(name: str, **loop: Any) -> list[float]:
        log = tmp_path / f"{name}.jsonl"
        train_diffusion(
            run_of("train-diffusion", latents, name, log=log), small_diffusion({"validate_every": 1, **loop})
        )
        lines = map(json.loads, log.read_text().splitlines()[1:])
        return [line["validation_loss"] for line in lines if "validation_loss" in line]

    still = curve("still", learning_rate=1e-12)
    assert len(still) == 6
    assert still == pytest.approx([still[0]] * 6, rel=1e-5)
    assert curve("live", ema=0.0) != curve("averaged")
