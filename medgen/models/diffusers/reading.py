"""Read the networks of a local folder in the layout of diffusers, such as Stable Diffusion 1.5 or 2.1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec.structs import replace as with_changes
from torch import Tensor

from medgen.artifacts.latent_space import LatentSpace
from medgen.artifacts.schema import Intensity
from medgen.config import convert
from medgen.diffusion.options import Objective, ScheduleConfig, ScheduleKind, check
from medgen.errors import ConfigError, DataError, InputMissingError
from medgen.models.diffusers.files import (
    CONFIG,
    ENCODER_WEIGHTS,
    MERGES,
    SCHEDULER,
    SCHEDULER_CONFIG,
    TEXT,
    TOKENIZER,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    UNET,
    VAE,
    VOCABULARY,
    read_json,
    read_network,
    read_text,
)
from medgen.models.diffusers.imported import ImportedModel
from medgen.models.facts import DenoiserFacts, VAEFacts
from medgen.models.text.bytepairs import BEGIN, END, BytePairs
from medgen.nets.diffusers.text import text_from_clip
from medgen.nets.diffusers.unet import unet_from_diffusers
from medgen.nets.diffusers.vae import vae_from_diffusers
from medgen.nets.options import TextConfig
from medgen.nets.text.encoder import TextEncoder

BYTES = Intensity(1.0, 0.0, "grey value", (0.0, 255.0))
"""What its images are, the same as of PNG and JPG files."""
DEFAULT_SIDE = 64
SCALING = 0.18215
"""What latents are multiplied by where a folder does not say, as those of Stable Diffusion 1 and 2 do not."""
GUIDANCE = 7.5
"""The scale that the pipelines of diffusers guide with."""
SCHEDULES: Mapping[str, ScheduleKind] = {"scaled_linear": "scaled_linear", "linear": "linear"}
OBJECTIVES: Mapping[str, Objective] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
"""What a network predicts, by the names of diffusers."""


UNLIKE = ("FlowMatch", "LCM", "TCD")
"""Beginnings of the names of schedulers for straight paths, or for networks that learned to take few steps."""


def import_vae(path: Path) -> ImportedModel:
    """The `AutoencoderKL` in the folder `path`, or in its subfolder `vae`.

    Raises InputMissingError if a file is missing, and DataError if it is not what its name says, or is a pickle.
    """
    folder = _part(path, VAE)
    settings, weights = read_network(folder)
    try:
        config, state = vae_from_diffusers(settings, weights)
    except DataError as error:
        raise DataError(f"{folder}: {error}") from None
    space = _latent_space(settings, config.latent_channels, folder)
    return ImportedModel.of(path, "vae", config, state, VAEFacts(None, space.scale, space.shift, None))


def _part(path: Path, name: str) -> Path:
    """The folder of one network: `path` itself, or its subfolder `name` if it is that of a pipeline."""
    if not path.is_dir():
        raise InputMissingError(f"{path}: no such folder")
    return path if (path / CONFIG).exists() or not (path / name).is_dir() else path / name


def _latent_space(settings: Mapping[str, Any], channels: int, folder: Path) -> LatentSpace:
    """How the pipeline scales and shifts latents for its networks."""
    factor, shift = settings.get("scaling_factor", SCALING), settings.get("shift_factor") or 0.0
    means, stds = settings.get("latents_mean"), settings.get("latents_std")
    if means is None or stds is None:
        return LatentSpace(factor, shift)
    if not len(means) == len(stds) == channels:
        raise DataError(f"{folder / CONFIG}: latents_mean and latents_std do not fit latent_channels = {channels}")
    return LatentSpace(tuple(factor / std for std in stds), tuple(means))


def import_denoiser(path: Path) -> ImportedModel:
    """The UNet of the pipeline in the folder `path`, with its text encoder in it.

    Raises InputMissingError if a file is missing, and DataError if it is not what its name says, or is a pickle.
    """
    if not path.is_dir():
        raise InputMissingError(f"{path}: no such folder")
    if lacking := [name for name in (UNET, VAE, TEXT, TOKENIZER, SCHEDULER) if not (path / name).is_dir()]:
        raise InputMissingError(f"{path}: has no folder '{lacking[0]}'; give the folder of a Stable Diffusion pipeline")
    reader = read_tokenizer(path / TOKENIZER)
    settings, weights = read_network(path / TEXT, ENCODER_WEIGHTS)
    try:
        text, text_state = text_from_clip(settings, weights)
    except DataError as error:
        raise DataError(f"{path / TEXT}: {error}") from None
    if len(reader.vocabulary) != text.vocabulary:
        raise DataError(
            f"{path}: its tokenizer has {len(reader.vocabulary)} pieces, but its text encoder {text.vocabulary}; get "
            "the matching folders"
        )
    settings, weights = read_network(path / UNET)
    try:
        empty = empty_states(text, text_state, BytePairs(reader.vocabulary, reader.merges, text.length, reader.padding))
        config, state = unet_from_diffusers(settings, weights, empty)
    except DataError as error:
        raise DataError(f"{path / UNET}: {error}") from None
    schedule, objective = read_scheduler(path / SCHEDULER)
    size = settings.get("sample_size") or DEFAULT_SIDE
    height, width = size if isinstance(size, list) else (size, size)
    vae = import_vae(path)
    space = VAEFacts.read(vae.facts, str(path)).latent_space
    facts = DenoiserFacts(
        space="latent",
        shape=(config.in_channels, height, width),
        schedule=msgspec.to_builtins(schedule),
        objective=objective,
        intensity=BYTES,
        vocabulary=reader.vocabulary,
        merges=reader.merges,
        padding=reader.padding,
        guidance=GUIDANCE,
        vae_digest=vae.digest,
        latent_scale=space.scale,
        latent_shift=space.shift,
    )
    state |= {f"text.{name}": tensor for name, tensor in text_state.items()}
    return ImportedModel.of(path, "denoiser", with_changes(config, text=text), state, facts)


@torch.inference_mode()
def empty_states(config: TextConfig, state: Mapping[str, Tensor], reader: BytePairs) -> Tensor:
    """States (1, length, width) that an encoder with these weights gives for the empty text."""
    with torch.device("meta"):
        encoder = TextEncoder(config, state["places"].shape[1], 0)
    encoder.load_state_dict(state, assign=True)
    states: Tensor = encoder(reader.read([""])["words"]).tokens
    return states.clone()


def read_tokenizer(folder: Path) -> BytePairs:
    """CLIP's tokenizer, from `vocab.json` and `merges.txt` or `tokenizer.json`, and `tokenizer_config.json`."""
    file = folder / VOCABULARY
    if not file.exists() and (folder / TOKENIZER_JSON).exists():
        file = folder / TOKENIZER_JSON
        model = read_json(file).get("model")
        numbers, pairs = (model.get("vocab"), model.get("merges")) if isinstance(model, dict) else (None, None)
    else:
        numbers, pairs = read_json(file), _pairs(folder / MERGES)
    try:
        numbers = msgspec.convert(numbers, dict[str, int])
        pairs = msgspec.convert(pairs, list[str | tuple[str, str]])
    except msgspec.ValidationError:
        raise DataError(f"{file}: does not map subwords to numbers; get CLIP's tokenizer again") from None
    vocabulary = tuple(sorted(numbers, key=lambda piece: numbers[piece]))
    if [numbers[piece] for piece in vocabulary] != list(range(len(vocabulary))):
        raise DataError(f"{file}: its pieces are not numbered 0, 1, ...; get the file again")
    merges = tuple(pair if isinstance(pair, str) else " ".join(pair) for pair in pairs)
    if not merges or any(len(pair.split(" ")) != 2 for pair in merges):
        raise DataError(f"{folder}: its merges are not pairs of pieces; get CLIP's tokenizer again")
    settings = read_json(folder / TOKENIZER_CONFIG)
    padding = settings.get("pad_token", END)
    padding = padding["content"] if isinstance(padding, dict) else padding
    if lacking := {BEGIN, END, padding} - {*vocabulary}:
        raise DataError(f"{file}: lacks the piece '{min(lacking)}'; this is not CLIP's tokenizer")
    return BytePairs(vocabulary, merges, settings.get("model_max_length", 77), padding)


def _pairs(file: Path) -> list[str]:
    return [line for line in read_text(file).splitlines() if line and not line.startswith("#version")]


def read_scheduler(folder: Path) -> tuple[ScheduleConfig, Objective]:
    """The noise schedule and what the network predicts; how many steps a sampler takes, and which, is a choice."""
    file = folder / SCHEDULER_CONFIG
    settings = read_json(file)
    name = settings.get("_class_name", "")
    if str(name).startswith(UNLIKE) or settings.get("use_flow_sigmas"):
        raise DataError(f"{file}: {name} is for models of another kind; give a folder of Stable Diffusion 1 or 2")
    kind, predicts = settings.get("beta_schedule", "linear"), settings.get("prediction_type", "epsilon")
    if kind not in SCHEDULES or predicts not in OBJECTIVES or settings.get("trained_betas") is not None:
        told = f"beta_schedule = {kind}, prediction_type = {predicts}"
        raise DataError(f"{file}: {told} with or without trained_betas is not what Stable Diffusion 1 or 2 has")
    values = {
        "kind": SCHEDULES[kind],
        "steps": settings.get("num_train_timesteps", 1000),
        "beta_start": settings.get("beta_start", 1e-4),
        "beta_end": settings.get("beta_end", 0.02),
        "zero_terminal_snr": settings.get("rescale_betas_zero_snr", False),
    }
    try:
        schedule = convert(ScheduleConfig, values, str(file))
        check(OBJECTIVES[predicts], schedule)
    except ConfigError as error:
        raise DataError(str(error)) from None
    return schedule, OBJECTIVES[predicts]
