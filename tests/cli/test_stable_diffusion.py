"""From a folder of Stable Diffusion and back: what medgen makes of it is what diffusers makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.cli.app import run

diffusers = pytest.importorskip("diffusers")

BYTES = Intensity(1.0, 0.0, "8-bit value", (0.0, 255.0))
SIDE = 16


def randomized(network: Any, seed: int) -> Any:
    """With every weight random, so that no zero or one hides a wrong name."""
    torch.manual_seed(seed)
    for name, parameter in network.named_parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 16
        torch.nn.init.normal_(parameter, std=fan**-0.5, mean=1.0 if "norm" in name and "weight" in name else 0.0)
    return network.eval().requires_grad_(False)


def vae() -> Any:
    settings = {
        "block_out_channels": (8, 16), "down_block_types": ("DownEncoderBlock2D",) * 2, "norm_num_groups": 4,
        "up_block_types": ("UpDecoderBlock2D",) * 2, "layers_per_block": 1, "latent_channels": 4,
    }  # fmt: skip
    return randomized(diffusers.AutoencoderKL(**settings, scaling_factor=0.18215), 1)


def write_images(path: Path, channels: int, count: int = 4) -> Path:
    draw = np.random.default_rng(0)
    header = SetHeader("image", derive("preprocess", {}, sources=f"source-{channels}"), BYTES)
    with create_set(path, header) as writer:
        for number in range(count):
            image = draw.integers(0, 256, (1, channels, SIDE, SIDE)).astype(np.uint8)
            text = (f"chest x-ray number {number}, isn't it",)
            writer.write(Case(f"case-{number}", {"image": image}, "val" if number == 3 else "train", text=text))
    return path


@pytest.mark.parametrize("channels", [3, 1])
def test_latents_of_colour_and_of_grey_images_are_those_of_diffusers(channels: int, tmp_path: Path) -> None:
    theirs = vae()
    theirs.save_pretrained(tmp_path / "sd" / "vae")
    source, output = write_images(tmp_path / "images.h5", channels), tmp_path / "z.h5"
    assert run(["extract-latents", str(source), "--vae", str(tmp_path / "sd"), "-o", str(output)]) == 0
    with open_set(source, random_access=True) as images, open_set(output, random_access=True) as latents:
        pixels = torch.from_numpy(images.column("image")).float() / 127.5 - 1
        expected = theirs.encode(pixels.expand(-1, 3, -1, -1)).latent_dist.mean
        torch.testing.assert_close(torch.from_numpy(latents.column("latent")), expected, atol=1e-5, rtol=1e-4)
        assert latents.header.latent_scale == 0.18215
        assert latents.header.intensity == BYTES


def test_a_pickle_is_refused_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    (tmp_path / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")
    source = write_images(tmp_path / "images.h5", 3)
    assert run(["extract-latents", str(source), "--vae", str(tmp_path), "-o", str(tmp_path / "z.h5")]) == 65
    assert "pickle" in capsys.readouterr().err
