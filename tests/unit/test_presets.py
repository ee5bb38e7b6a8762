"""Every preset is complete: each of its tables makes the options of the command it names."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import pytest

from medgen.cli.app import COMMANDS
from medgen.config import Options, load_preset, preset_names, resolve

OPTIONS = {
    "phantom": "medgen.phantoms.options:ChestCTOptions",
    "preprocess": "medgen.imaging.cases.options:PreprocessOptions",
    "train-vae": "medgen.training.learners.vae_options:TrainVAEOptions",
    "extract-latents": "medgen.inference.encode_options:EncodeOptions",
    "evaluate": "medgen.evaluation.options:EvaluateOptions",
    "train-diffusion": "medgen.training.learners.diffusion_options:LEARNER_OPTIONS",
    "generate": "medgen.inference.generate_options:GenerateOptions",
    "interpolate": "medgen.inference.interpolate_options:InterpolateOptions",
    "normalize": "medgen.inference.normalize_options:NormalizeOptions",
    "anomaly-map": "medgen.inference.anomaly.options:AnomalyOptions",
}
PHANTOMS = {"dental": "DentalOptions", "siamese": "EndoscopyOptions"}
"""Of presets whose phantom is no chest CT, by how they begin."""


@pytest.mark.parametrize("name", preset_names())
def test_every_table_is_a_command_and_its_keys_are_options(name: str) -> None:
    preset = load_preset(name)
    assert set(preset) <= set(COMMANDS)
    for command in preset:
        module, _, kind = OPTIONS[command].partition(":")
        if command == "phantom":
            kind = PHANTOMS.get(name.partition("-")[0], kind)
        options: type[Options] | Sequence[type[Options]] = getattr(importlib.import_module(module), kind)
        resolve(options, command, tables=COMMANDS, preset=name)


def test_the_nodule_preset_has_the_published_numbers() -> None:
    preset: dict[str, Any] = load_preset("lidc-nodule")
    vae, unet = preset["train-vae"], preset["train-diffusion"]
    assert vae["network"]["widths"] == [64, 128, 256, 512]
    assert vae["network"]["latent_channels"] == 8
    assert (vae["loop"]["batch_size"], vae["loop"]["learning_rate"], vae["losses"]["kl"]) == (8, 1e-4, 1e-6)
    assert unet["network"]["time_width"] == 1024
    assert set(unet["network"]["attention"]) == {"linear"}
    schedule = unet["schedule"]
    assert (schedule["beta_start"], schedule["beta_end"], schedule["steps"]) == (0.002, 0.02, 1000)
    assert (unet["condition_dropout"], unet["balance"]["fraction"]) == (0.3, 0.6)
    assert preset["generate"]["guidance"] == 2.0
    assert preset["preprocess"]["size"] == "256"


def test_the_normalizer_preset_has_the_published_numbers() -> None:
    preset: dict[str, Any] = load_preset("dental-normalizer")
    vae, learner = preset["train-vae"], preset["train-diffusion"]
    assert {name: vae["losses"][name] for name in ("pixel", "gradient", "laplacian", "ssim", "kl")} == {
        "pixel": 1.0, "gradient": 0.5, "laplacian": 0.3, "ssim": 0.1, "kl": 1e-6,
    }  # fmt: skip
    assert (vae["loop"]["learning_rate"], vae["decoder_only"], vae["network"]["latent_channels"]) == (
        5e-5,
        "with-init",
        4,
    )
    assert learner["network"]["widths"] == [128 * factor for factor in (1, 2, 4, 4)]
    assert (learner["network"]["blocks"], learner["network"]["attention"]) == (2, ["none", "full", "full", "none"])
    assert learner["schedule"] == {"kind": "linear", "beta_start": 1e-4, "beta_end": 0.02, "steps": 1000}
    identity, loop = learner["normalizer"]["identity"], learner["loop"]
    assert (learner["normalizer"]["diffusion_weight"], learner["normalizer"]["flow_weight"]) == (1.0, 0.5)
    assert [share * loop["steps"] for share in identity["ramp"]] == pytest.approx([90_000, 110_000])
    assert (identity["weight"], identity["noise_level"]) == (0.1, 0.4)
    assert (identity["pixel"], identity["gradient"], identity["laplacian"]) == (1.0, 0.5, 0.3)
    assert (loop["steps"], loop["learning_rate"], loop["optimizer"], loop["ema"]) == (300_000, 1e-4, "adamw", 0.9999)
    assert preset["normalize"]["noise_level"] == 0.4
    assert preset["anomaly-map"] == {"pixel": 1.0, "gradient": 0.5, "laplacian": 0.3}


def test_the_text_preset_has_the_parts_of_the_system() -> None:
    for name in ("text-to-image", "text-to-image-tiny"):
        learner: dict[str, Any] = load_preset(name)["train-diffusion"]
        network = learner["network"]
        assert network["context_width"] % network["text"]["head_width"] == 0
        assert learner["condition_dropout"] == 0.1  # guidance needs a null condition
        assert "flip" not in learner  # prompts say left and right
    full = load_preset("text-to-image")
    network = full["train-diffusion"]["network"]
    assert (network["gated_skips"], network["feature_pyramid"], full["preprocess"]["size"]) == (True, True, "256")


def test_the_siamese_preset_has_the_published_numbers() -> None:
    preset: dict[str, Any] = load_preset("siamese")
    learner, sampling = preset["train-diffusion"], preset["generate"]
    assert preset["preprocess"]["size"] == "384"
    assert (learner["learner"], learner["trunk"], learner["hint"]) == ("siamese", "decoder", "sum")
    assert learner["network"]["widths"][0] == 320
    assert learner["hint_width"] == 16
    losses = learner["losses"]
    assert {losses[name] for name in ("mask", "image", "consistency", "augmentation")} == {1.0}
    assert losses["augmentation_time"] * learner["schedule"]["steps"] == 200
    loop = learner["loop"]
    assert (loop["learning_rate"], loop["batch_size"], loop["steps"]) == (1e-5, 48, 3000)
    assert (sampling["guidance"], sampling["sampler"], sampling["steps"], sampling["eta"]) == (9.0, "ddim", 50, 0.0)


@pytest.mark.parametrize("name", [name for name in preset_names() if not name.endswith("-tiny")])
def test_every_system_has_a_tiny_twin(name: str) -> None:
    assert f"{name}-tiny" in preset_names()
