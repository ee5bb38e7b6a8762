"""Memory does not grow with depth: the peak of whole processes, and what they leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from medgen.artifacts.model_file import save_model
from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.config import plain
from medgen.diffusion.options import ScheduleConfig
from medgen.models.facts import InterpolatorFacts, VAEFacts
from medgen.nets.options import UNetConfig, VAEConfig
from medgen.nets.unet import UNet
from medgen.nets.vae import VAE

RATIO = 12  # thin slices a thick one
INTERPOLATE = """
import sys, torch
from dataclasses import replace
from pathlib import Path
from medgen.artifacts.sets import create_set, open_set
from medgen.inference.interpolate import Interpolation, Spline
from medgen.inference.interpolate_options import InterpolateOptions
from medgen.models.trained import Interpolator, FrozenVAE

torch.set_num_threads(1)
thick, thin, models = sys.argv[1:]
options = InterpolateOptions(spacing=1.0, steps=1, samples=2, batch_size=2, precision="float32")
with open_set(thick) as reader:
    if models:
        networks = [load(Path(models, name), torch.device("cpu"), "float32")
                    for load, name in ((Interpolator.load, "model"), (FrozenVAE.load, "vae"))]
        interpolation = Interpolation(*networks, options, reader.header.intensity)
    else:
        interpolation = Spline(options, reader.header.intensity)
    with create_set(thin, reader.header, inputs=[reader]) as writer:
        for case in reader.on_disk():
            writer.write(interpolation.case(case))
"""


def peak(thick: Path, models: Path | None) -> float:
    """MiB that a process needs at most to interpolate a set."""
    thin = thick.with_name(f"thin-{thick.name}")
    scratch = thick.with_name("scratch")
    scratch.mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(scratch)}
    command = [sys.executable, "-c", INTERPOLATE, str(thick), str(thin), str(models or "")]
    with subprocess.Popen(command, env=environment) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert list(scratch.iterdir()) == []
    with open_set(thin, random_access=True) as stored, open_set(thick, random_access=True) as source:
        assert stored.slices == RATIO * source.slices
        assert stored.has("spread") == bool(models)
    thin.unlink()
    return usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)


def thick_set(path: Path, count: int, side: int) -> Path:
    rng = np.random.default_rng(0)
    image = rng.integers(-1000, 400, (count, 1, side, side)).astype(np.int16)
    with create_set(path, SetHeader("image", derive("make", {}), Intensity())) as writer:
        writer.write(Case("deep", {"image": image}, spacing=(float(RATIO), 1.0, 1.0)))
    return path


def write_models(folder: Path) -> Path:
    """Networks that compute next to nothing, on latents of as many pixels as the images, with four channels."""
    torch.manual_seed(0)
    shape = VAEConfig(latent_channels=4, widths=(4,), blocks=1, groups=1)
    vae = save_model(
        folder / "vae", kind="vae", config=plain(shape), weights=VAE(shape).state_dict(),
        facts=msgspec.to_builtins(VAEFacts(Intensity(), 1.0, 0.0)), provenance=derive("train-vae", {}),
    )  # fmt: skip
    config = UNetConfig(
        dims=3, in_channels=10, out_channels=4, widths=(4,), blocks=1, attention=("none",), mid_attention="none",
        time_width=8, groups=1, vector_size=3, vector_hidden=8,
    )  # fmt: skip
    facts = InterpolatorFacts(
        schedule=plain(ScheduleConfig()), objective="x0", intensity=Intensity(), vae_digest=vae.digest,
        latent_scale=1.0, latent_shift=0.0, residual_std=0.3, depth=16, plane=(64, 64), thick_spacing=(2.0, 20.0),
        thin_spacing=(1.0, 1.0),
    )  # fmt: skip
    save_model(
        folder / "model", kind="interpolator", config=plain(config), weights=UNet(config).state_dict(),
        facts=msgspec.to_builtins(facts), provenance=derive("train-diffusion", {}),
    )  # fmt: skip
    return folder


@pytest.mark.parametrize(("way", "side", "depths"), [("spline", 128, (35, 135)), ("model", 48, (4, 40))])
def test_memory_does_not_grow_with_depth(tmp_path: Path, way: str, side: int, depths: tuple[int, int]) -> None:
    """The shallow volume of the spline is as deep as the spline reaches, so that nothing but depth is compared."""
    models = write_models(tmp_path) if way == "model" else None
    shallow, deep = (peak(thick_set(tmp_path / f"{count}.h5", count, side), models) for count in depths)
    # With image, spread and latents of a case in memory it would be 75 MiB at the least.
    assert deep - shallow < 40
