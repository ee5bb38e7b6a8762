"""Write a denoiser, its text encoder and its VAE as a folder that the Stable Diffusion pipeline of diffusers loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from medgen.artifacts.model_file import Model
from medgen.config import convert
from medgen.diffusion.options import ScheduleConfig
from medgen.errors import DataError
from medgen.models.diffusers.files import (
    CONFIG,
    ENCODER_WEIGHTS,
    MERGES,
    SCHEDULER,
    SCHEDULER_CONFIG,
    TEXT,
    TOKENIZER,
    TOKENIZER_CONFIG,
    UNET,
    VAE,
    VOCABULARY,
    WEIGHTS,
)
from medgen.models.diffusers.reading import OBJECTIVES, SCHEDULES, empty_states
from medgen.models.facts import DenoiserFacts
from medgen.models.text.bytepairs import BEGIN, END, BytePairs
from medgen.nets.diffusers.text import text_to_clip
from medgen.nets.diffusers.unet import unet_to_diffusers
from medgen.nets.diffusers.vae import vae_to_diffusers
from medgen.nets.options import UNetConfig, VAEConfig

ENCODER = "text."
"""Beginning of the names of a text encoder's weights in a UNet."""
INDEX = "model_index.json"
NOTHING = [None, None]
CLASSES = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": NOTHING,
    "image_encoder": NOTHING,
    "requires_safety_checker": False,
    "safety_checker": NOTHING,
    SCHEDULER: ["diffusers", "DDIMScheduler"],
    TEXT: ["transformers", "CLIPTextModel"],
    TOKENIZER: ["transformers", "CLIPTokenizer"],
    UNET: ["diffusers", "UNet2DConditionModel"],
    VAE: ["diffusers", "AutoencoderKL"],
}


def write_pipeline(folder: Path, denoiser: Model, vae: Model) -> None:
    """Write both models into `folder`; DataError for what the pipeline does not have."""
    facts = DenoiserFacts.read(denoiser.facts, str(denoiser.path))
    network = convert(UNetConfig, denoiser.config, str(denoiser.path))
    if vae.digest != facts.vae_digest:
        raise DataError(f"{denoiser.path}: has latents of another VAE than {vae.path}; give the VAE that made them")
    if network.text is None or not facts.merges or not network.null_length:
        raise DataError(
            f"{denoiser.path}: does not read texts as CLIP does, which the pipeline needs; only models that "
            "train-diffusion --init FOLDER made from Stable Diffusion can be exported to diffusers"
        )
    state = denoiser.weights()
    text = {name.removeprefix(ENCODER): state.pop(name) for name in list(state) if name.startswith(ENCODER)}
    reader = BytePairs(facts.vocabulary, facts.merges, network.text.length, facts.padding)
    if not torch.allclose(empty_states(network.text, text, reader), state.pop("null_context"), atol=1e-3):
        raise DataError(
            f"{denoiser.path}: its text encoder has changed, so the empty text is no longer the null condition that "
            "it was trained with; keep the encoder frozen in training"
        )
    _, height, width = facts.shape
    settings, weights = unet_to_diffusers(network, state, height if height == width else [height, width])
    _write_network(folder / UNET, settings, weights)
    _write_network(folder / TEXT, *text_to_clip(network.text, network.context_width, text), ENCODER_WEIGHTS)
    settings, weights = vae_to_diffusers(convert(VAEConfig, vae.config, str(vae.path)), vae.weights())
    _write_network(folder / VAE, settings | {"scaling_factor": _factor(facts, denoiser.path)}, weights)
    _write_tokenizer(folder / TOKENIZER, reader)
    _write_json(folder / SCHEDULER / SCHEDULER_CONFIG, _scheduler(facts, denoiser.path))
    _write_json(folder / INDEX, CLASSES)


def _factor(facts: DenoiserFacts, path: Path) -> float:
    if isinstance(facts.latent_scale, tuple) or facts.latent_shift not in (0.0, ()):
        raise DataError(
            f"{path}: its latents are shifted, or scaled by channel, and the pipeline has one factor for all"
        )
    return facts.latent_scale


def _scheduler(facts: DenoiserFacts, path: Path) -> dict[str, Any]:
    """A scheduler that takes the steps of `--sampler ddim --times trailing`, which end at the data."""
    schedule = convert(ScheduleConfig, facts.schedule, str(path))
    kinds = {ours: theirs for theirs, ours in SCHEDULES.items()}
    predicted = {ours: theirs for theirs, ours in OBJECTIVES.items()}
    if schedule.kind not in kinds or facts.objective not in predicted:
        raise DataError(f"{path}: no scheduler of the pipeline has {schedule.kind} and predicts {facts.objective}")
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": schedule.steps,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "beta_schedule": kinds[schedule.kind],
        "prediction_type": next(name for ours, name in predicted.items() if ours == facts.objective),
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
        "timestep_spacing": "trailing",
        "set_alpha_to_one": True,
        "clip_sample": False,
        "steps_offset": 0,
    }


def _write_tokenizer(folder: Path, reader: BytePairs) -> None:
    marks = {"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": reader.padding}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": reader.length, "do_lower_case": True, **marks}
    _write_json(folder / TOKENIZER_CONFIG, settings)
    _write_json(folder / "special_tokens_map.json", marks)
    _write_json(folder / VOCABULARY, {piece: number for number, piece in enumerate(reader.vocabulary)})
    (folder / MERGES).write_text("\n".join(["#version: 0.2", *reader.merges, ""]), encoding="utf-8")


def _write_network(
    folder: Path, settings: Mapping[str, Any], weights: Mapping[str, Tensor], file: str = WEIGHTS
) -> None:
    _write_json(folder / CONFIG, settings)
    safetensors.torch.save_file(dict(weights), folder / file, metadata={"format": "pt"})


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
