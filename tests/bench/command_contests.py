"""Whole commands, from start to finish as processes of their own, against plain scripts that do the same work."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from pydicom import uid

from .table import OURS, Contest, Work
from .terms import has_bfloat16
from .workshop import Chain, make_series, save_models

ROOT = Path(__file__).parents[2]
MEDGEN = shlex.quote(str(Path(sys.executable).with_name("medgen")))
SCRIPT = f"{shlex.quote(sys.executable)} -m tests.bench"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def command_contests(folder: Path, chain: Chain) -> Iterator[Contest]:
    """All of them; `folder` is empty and keeps what they work on."""
    save_models(folder, chain)
    plain = make_series(folder / "plain", chain, chain.decoded, uid.ExplicitVRLittleEndian)
    few = make_series(folder / "few", chain, chain.encoded, uid.ExplicitVRLittleEndian)
    packed = make_series(folder / "packed", chain, chain.decoded, uid.JPEGLSLossless)
    yield from _latents(folder, few, chain)
    yield from _samples(folder, chain)
    yield from _decoding(folder, plain, f"{chain.decoded * chain.slices} DICOM files, uncompressed, -> set")
    yield from _decoding(folder, packed, f"{chain.decoded * chain.slices} DICOM files, JPEG-LS, -> set")


def _latents(folder: Path, series: Path, chain: Chain) -> Iterator[Contest]:
    work = f"{chain.encoded * chain.slices} DICOM files -> latents"
    read = f"{MEDGEN} preprocess {series} --size {chain.side}"
    encode = f"{MEDGEN} extract-latents --vae {folder / 'vae.safetensors'}"
    script = (
        f"{SCRIPT}.monai_latents {series} {folder / 'vae.pt'} {folder / 'latents.npz'} "
        f"--widths {_numbers(chain.vae_widths)} --size {chain.side}"
    )

    def ours(options: str) -> Work:
        return lambda: _run(f"{read} | {encode} {options} -o {folder / 'latents.h5'} --force")

    for terms, options, flags in _precisions():
        yield Contest(work, terms, {OURS: ours(options), "MONAI script": lambda flags=flags: _run(f"{script} {flags}")})
    images = folder / "images.h5"
    in_files = f"{read} -o {images} --force && {encode} {images} --force -o {folder / 'latents.h5'}"
    yield Contest(work, "in a pipe", {OURS: ours(""), "through a file": lambda: _run(in_files)})


def _samples(folder: Path, chain: Chain) -> Iterator[Contest]:
    generate = (
        f"{MEDGEN} generate {folder / 'unet.safetensors'} --vae {folder / 'vae.safetensors'} -n {chain.samples} "
        f"--sampler ddim --steps {chain.steps} -o {folder / 'samples.h5'} --force"
    )
    script = (
        f"{SCRIPT}.monai_samples {folder / 'unet.pt'} {folder / 'vae.pt'} {folder / 'samples.npz'} "
        f"--unet-widths {_numbers(chain.unet_widths)} --vae-widths {_numbers(chain.vae_widths)} "
        f"--side {chain.latent_side} --count {chain.samples} --steps {chain.steps}"
    )
    for terms, options, flags in _precisions():
        contestants: dict[str, Work] = {
            OURS: lambda options=options: _run(f"{generate} {options}"),
            "MONAI script": lambda flags=flags: _run(f"{script} {flags}"),
        }
        yield Contest(f"{chain.samples} samples, {chain.steps} steps, decoded", terms, contestants)


def _decoding(folder: Path, series: Path, work: str) -> Iterator[Contest]:
    output = folder / "decoded.h5"
    for processes in sorted({1, CORES}):
        read = f"{MEDGEN} preprocess {series} --workers {processes} -o {output} --force"
        bare = f"{SCRIPT}.bare_decoding {series} --processes {processes}"
        contestants: dict[str, Work] = {
            OURS: lambda read=read: _run(read),
            "bare decoding": lambda bare=bare: _run(bare),
        }
        yield Contest(work, f"{processes} process{'es' * (processes > 1)}", contestants)


def _precisions() -> Iterator[tuple[str, str, str]]:
    """Terms, options of medgen's command, flags of MONAI's script."""
    yield "float32, both", "--precision float32", ""
    if has_bfloat16(torch.device("cuda" if torch.cuda.is_available() else "cpu")):
        yield "bfloat16, both", "--precision bfloat16", "--bfloat16"
    yield "defaults, each", "", ""


def _run(command: str) -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{command}\nended with status {done.returncode}:\n{done.stderr[-2000:]}")


def _numbers(values: tuple[int, ...]) -> str:
    return " ".join(map(str, values))
