"""Small artifacts that many tests start from: an image set, and models with random weights, all made in a moment."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from medgen.artifacts.model_facts import DenoiserFacts, VAEFacts
from medgen.artifacts.models import Model, load_model, save_model
from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set
from medgen.config import plain
from medgen.diffusion.schedules import ScheduleConfig
from medgen.nets.unet import UNet
from medgen.nets.unet_config import UNetConfig
from medgen.nets.vae import VAE, VAEConfig

FIELDS = ("has_nodule", "x", "y", "size", "malignancy", "texture")
HU = Intensity()


def write_image_set(path: Path, depths: tuple[int, ...] = (3, 1, 2, 4), side: int = 32) -> Path:
    """Cases of the given depths with int16 images, masks, vectors, labels and texts."""
    random = np.random.default_rng(0)
    header = SetHeader(
        kind="image", provenance=derive("preprocess", {}, sources="source-test"), intensity=HU, vector_fields=FIELDS
    )
    with create_set(path, header) as writer:
        for number, depth in enumerate(depths):
            arrays = {
                "image": random.integers(-1100, 500, (depth, 1, side, side)).astype(np.int16),
                "mask": random.integers(0, 2, (depth, 1, side, side)).astype(np.uint8),
                "vector": random.random((depth, len(FIELDS))).astype(np.float32),
                "label": np.arange(depth),
            }
            split = ("train", "val")[number % 2]
            writer.write(Case(f"case-{number}", arrays, split, (2.0, 0.7, 0.7), text=tuple("t" * depth)))
    return path


def write_vae(path: Path, seed: int = 0, **changes: object) -> Model:
    """A VAE with random weights: 32 x 32 -> 4 x 8 x 8."""
    config = msgspec.convert({"latent_channels": 4, "widths": (8, 16, 16), "blocks": 1, "groups": 4, **changes}, VAEConfig)
    torch.manual_seed(seed)
    facts = VAEFacts(intensity=HU, latent_scale=0.5, latent_shift=0.25)
    return save_model(
        path,
        kind="vae",
        config=plain(config),
        weights=VAE(config).state_dict(),
        facts=msgspec.to_builtins(facts),
        provenance=derive("train-vae", {"seed": seed}),
    )


def write_denoiser(path: Path, vae: Model | None, seed: int = 0, fields: tuple[str, ...] = FIELDS) -> Model:
    """A denoiser with random weights for the latents of `vae`, or for 1 x 32 x 32 images without one."""
    channels = 1 if vae is None else 4
    config = UNetConfig(
        in_channels=channels,
        out_channels=channels,
        widths=(16, 32),
        blocks=1,
        attention=("none", "full"),
        head_width=16,
        time_width=32,
        groups=8,
        vector_size=len(fields),
        vector_hidden=16,
    )
    torch.manual_seed(seed)
    network = UNet(config)
    for parameter in network.parameters():  # a new network answers zero to everything
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    facts = DenoiserFacts(
        space="latent" if vae else "image",
        shape=(4, 8, 8) if vae else (1, 32, 32),
        schedule=plain(ScheduleConfig()),
        objective="eps",
        intensity=HU,
        vector_fields=fields,
        spacing=(2.0, 0.7, 0.7),
        vae_digest=vae.digest if vae else "",
        latent_scale=0.5,
        latent_shift=0.25,
    )
    return save_model(
        path,
        kind="denoiser",
        config=plain(config),
        weights=network.state_dict(),
        facts=msgspec.to_builtins(facts),
        provenance=derive("train-diffusion", {"seed": seed}),
    )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images.h5, vae.safetensors, model.safetensors (latent) and pixels.safetensors (image space)."""
    folder = tmp_path_factory.mktemp("tiny")
    write_image_set(folder / "images.h5")
    write_vae(folder / "vae.safetensors")
    vae = load_model(folder / "vae.safetensors", kind="vae")
    write_denoiser(folder / "model.safetensors", vae)
    write_denoiser(folder / "pixels.safetensors", None)
    return folder
