"""The interpolator: what it learns from, what it promises, what it refuses."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from msgspec.structs import replace

from medgen.artifacts.model_file import open_model, save_model
from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.config import plain
from medgen.diffusion.options import ScheduleConfig
from medgen.errors import ConfigError, DataError, Terminated, UsageError
from medgen.models.facts import InterpolatorFacts
from medgen.models.trained import FrozenVAE
from medgen.nets.options import UNetConfig, VAEConfig
from medgen.nets.vae import VAE
from medgen.training.data.options import VolumeOptions
from medgen.training.data.step import Batch, Step
from medgen.training.learners.diffusion import train_diffusion
from medgen.training.learners.diffusion_options import InterpolatorOptions
from medgen.training.learners.interpolator import InterpolatorLearner
from medgen.training.loop.options import LoopOptions
from medgen.training.loop.run import Run

RunOf = Callable[..., Run]
SIDE = 32


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_thin(tmp_path_factory.mktemp("thin") / "thin.h5")


def write_thin(path: Path) -> Path:
    """Balls in air, 1 mm slices, for training and validation."""
    rng = np.random.default_rng(0)
    with create_set(path, SetHeader("image", derive("make", {}), Intensity())) as writer:
        for number in range(8):
            z, y, x = np.mgrid[0:20, 0:SIDE, 0:SIDE]
            image = np.full((20, SIDE, SIDE), -800.0)
            for _ in range(4):
                place = rng.uniform((0, 6, 6), (20, 26, 26))
                image[(z - place[0]) ** 2 + (y - place[1]) ** 2 + (x - place[2]) ** 2 < rng.uniform(3, 7) ** 2] = 50
            split = "val" if number % 4 == 3 else "train"
            writer.write(Case(f"case-{number}", {"image": image[:, None].astype(np.int16)}, split))
    return path


def options_of(tiny: Path, loop: dict[str, Any] | None = None, **changes: Any) -> InterpolatorOptions:
    values: dict[str, Any] = {
        "vae": str(tiny / "vae.safetensors"),
        "objective": "x0",
        "network": UNetConfig(
            dims=3, widths=(8, 16), blocks=1, attention=("none", "none"), mid_attention="none", time_width=32,
            groups=4, vector_hidden=16,
        ),
        "schedule": ScheduleConfig(kind="cosine"),
        "volumes": VolumeOptions(depth=6, thick_spacing=(2.5, 5.0), crop=16),
        "loop": LoopOptions(
            **{
                "steps": 5, "batch_size": 2, "accumulate": 2, "learning_rate": 2e-3, "precision": "float32",
                "validation_samples": 4, "validate_every": 2, "save_every": 2, "ema": 0.9, **(loop or {}),
            }
        ),
    }  # fmt: skip
    return InterpolatorOptions(**(values | changes))


def test_stopped_and_gone_on_with_ends_in_the_same_bytes(tiny: Path, thin: Path, run_of: RunOf) -> None:
    options = options_of(tiny)
    train_diffusion(run_of("train-diffusion", thin, "whole.safetensors"), options)
    honest = InterpolatorLearner.loss

    def interrupted(self: InterpolatorLearner, batch: Batch, step: Step) -> Any:
        if step.training and step.index == 2 and step.offset == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return honest(self, batch, step)

    run = run_of("train-diffusion", thin, "parts.safetensors")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Terminated):
        patch.setattr(InterpolatorLearner, "loss", interrupted)
        train_diffusion(run, options)
    assert not run.output.exists()
    train_diffusion(run, options)
    assert run.output.read_bytes() == run.output.with_name("whole.safetensors").read_bytes()


def test_the_model_tells_what_it_was_trained_on(tiny: Path, thin: Path, run_of: RunOf) -> None:
    run = run_of("train-diffusion", thin)
    train_diffusion(run, options_of(tiny, min_snr_gamma=5.0, objective="v"))
    model = open_model(run.output, kind="interpolator")
    facts = InterpolatorFacts.read(model.facts, "model")
    vae = open_model(tiny / "vae.safetensors", kind="vae")
    assert facts.vae_digest == vae.digest
    assert (facts.latent_scale, facts.latent_shift) == (0.5, 0.25)
    assert (facts.depth, facts.plane) == (6, (SIDE, SIDE))
    assert (facts.thick_spacing, facts.thin_spacing) == ((2.5, 5.0), (1.0, 1.0))
    assert facts.schedule["kind"] == "cosine"
    assert facts.objective == "v"
    assert facts.residual_std > 0
    assert model.config["in_channels"] == 10  # noisy and guessed latents, and two channels of places
    assert {step.command for step in model.provenance.steps} == {"make", "train-vae", "train-diffusion"}
    assert model.facts["validation_loss"] > 0


def test_a_new_network_is_cubic_interpolation_and_learning_goes_below_it(tiny: Path, thin: Path, run_of: RunOf) -> None:
    """x0 is in units of its own standard deviation, so that answering zero costs about 1."""
    before = run_of("train-diffusion", thin, "before.safetensors")
    volumes = VolumeOptions(depth=6, thick_spacing=(4.0, 4.0), thickness=(1.0, 1.0), gaussian=0.0)
    loop = {"learning_rate": 1e-9, "steps": 1, "ema": 0.0, "validation_samples": 16}
    train_diffusion(before, options_of(tiny, loop, volumes=volumes))
    after = run_of("train-diffusion", thin, "after.safetensors")
    train_diffusion(after, options_of(tiny, loop | {"learning_rate": 5e-3, "steps": 60}, volumes=volumes))
    zero, learned = (open_model(run.output).facts["validation_loss"] for run in (before, after))
    assert 0.5 < zero < 2.0
    assert learned < 0.9 * zero


def test_slices_are_encoded_alone_so_that_chunks_do_not_matter(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = FrozenVAE.load(tiny / "vae.safetensors", torch.device("cpu"), "float32")
    learner = InterpolatorLearner(options_of(tiny), vae)
    volume = torch.rand(1, 11, 1, SIDE, SIDE) * 2 - 1
    whole = learner.latents(volume)
    assert whole.shape == (1, 4, 11, 8, 8)
    for chunk in (1, 3, 4):
        monkeypatch.setattr("medgen.training.learners.interpolator.ENCODED", chunk)
        torch.testing.assert_close(learner.latents(volume), whole, atol=1e-5, rtol=0)
    swapped = volume[:, torch.tensor([0, 1, 10, 3, 4, 5, 6, 7, 8, 9, 2])]
    torch.testing.assert_close(learner.latents(swapped)[:, :, 3:10], whole[:, :, 3:10], atol=1e-5, rtol=0)


def test_what_cannot_be_trained_is_said_in_one_sentence(
    tiny: Path, thin: Path, run_of: RunOf, tmp_path: Path, images: Path
) -> None:
    good = options_of(tiny)
    flat = replace(good.network, dims=2)
    halved = replace(good.network, down_depth=True)
    for error, options, source, sentence in (
        (UsageError, replace(good, vae=None), thin, "name it with --vae"),
        (ConfigError, replace(good, network=flat), thin, "set network.dims = 3"),
        (ConfigError, replace(good, network=halved), thin, "keeps depth"),
        (DataError, good, images, "split 'train': no case has 7 even slices at most 3 mm apart"),
        (ConfigError, replace(good, volumes=VolumeOptions(depth=6, crop=12)), thin, "volumes.crop = 12 does not fit"),
    ):
        with pytest.raises(error, match=sentence):
            train_diffusion(run_of("train-diffusion", source), options)


def test_a_nan_among_the_first_windows_is_traced_to_its_slice(
    tiny: Path, thin: Path, run_of: RunOf, tmp_path: Path
) -> None:
    """They decide the scale of the residual, which would make a sound first batch look bad."""
    with open_set(thin) as reader, create_set(tmp_path / "bad.h5", reader.header) as writer:
        for case in reader:
            image = case["image"].astype(np.float32)
            image[10] = np.nan if case.id == "case-2" else image[10]
            writer.write(replace_fields(case, arrays={"image": image}))
    with pytest.raises(DataError, match="first windows cannot be measured: slice 10 of case case-2 holds image values"):
        train_diffusion(run_of("train-diffusion", tmp_path / "bad.h5"), options_of(tiny))


def test_a_vae_of_volumes_or_of_another_window_is_refused(
    tiny: Path, thin: Path, run_of: RunOf, tmp_path: Path
) -> None:
    def vae(name: str, config: VAEConfig, window: tuple[float, float]) -> str:
        facts = {"intensity": msgspec.to_builtins(Intensity(window=window)), "latent_scale": 1.0, "latent_shift": 0.0}
        made = derive("train-vae", {"name": name})
        weights = VAE(config).state_dict()
        save_model(tmp_path / name, kind="vae", config=plain(config), weights=weights, facts=facts, provenance=made)
        return str(tmp_path / name)

    small = VAEConfig(latent_channels=2, widths=(8, 16), blocks=1)
    narrow = vae("narrow", small, (-160.0, 240.0))
    with pytest.raises(DataError, match=r"window \[-1000, 400\] HU and the model was trained on \[-160, 240\] HU"):
        train_diffusion(run_of("train-diffusion", thin), options_of(tiny, vae=narrow))
    deep = vae("deep", replace(small, dims=3), (-1000.0, 400.0))
    with pytest.raises(DataError, match="needs a VAE of slices"):
        train_diffusion(run_of("train-diffusion", thin), options_of(tiny, vae=deep))


def test_volumes_train_with_channels_last_too(tiny: Path, thin: Path, run_of: RunOf) -> None:
    weights = []
    for channels_last in (False, True):
        run = run_of("train-diffusion", thin, f"{channels_last}.safetensors")
        train_diffusion(
            run, options_of(tiny, {"steps": 1, "channels_last": channels_last, "checkpoint": channels_last})
        )
        weights.append(open_model(run.output).weights())
    for name, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][name], atol=1e-4), name
