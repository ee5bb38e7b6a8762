"""Shared by all tests: sets made of noise, models with random weights, and the real command as a subprocess."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pytest
import torch
from hypothesis import settings

from medgen.artifacts.hdf5.texts import column_names, read_texts
from medgen.artifacts.model_file import Model, open_model, save_model
from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set
from medgen.config import plain
from medgen.diffusion.options import ScheduleConfig
from medgen.models.facts import DenoiserFacts, InterpolatorFacts, NormalizerFacts, VAEFacts
from medgen.models.timing import Times
from medgen.nets.kernels import DEFAULT
from medgen.nets.options import UNetConfig, VAEConfig
from medgen.nets.unet import UNet
from medgen.nets.vae import VAE
from medgen.processors import processors

from .forked import STREAMS, run_forked

# Where CI is set, properties are tried on the same examples each time; elsewhere on new ones. How long an example takes
# tells of what else the machine does, not of the property.
settings.register_profile("new examples", deadline=None)
settings.register_profile("same examples", deadline=None, derandomize=True)
settings.load_profile("same examples" if os.environ.get("CI") else "new examples")

# As many threads in the tests' own process as in those that they start: more of them sum in another order.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a shell, which would leave the commands under test deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: a container's share of the processors counts, and the threads of each process do too."""
    return max(1, processors() // int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A test that changes the number of threads must not change how the next one sums."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def nothing_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """What "auto" comes to must not depend on the processor and on what else it does."""
    monkeypatch.setattr("medgen.models.precision.computes_bfloat16", lambda: True)
    monkeypatch.setattr("medgen.models.precision.measured", lambda network, training: Times(1.0, 1.0))
    monkeypatch.setattr("medgen.models.trained.measured_kernels", lambda network, dtype: DEFAULT)


def noise_cases(count: int = 3, depth: int = 2, size: int = 16, *, fields: int = 2, seed: int = 0) -> Iterator[Case]:
    """Cases of int16 noise with vectors, every third one for validation."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        arrays: dict[str, Any] = {
            "image": rng.integers(-1000, 400, (depth, 1, size, size)).astype(np.int16),
            "mask": (rng.random((depth, 1, size, size)) > 0.5).astype(np.uint8),
        }
        if fields:
            arrays["vector"] = rng.random((depth, fields), dtype=np.float32)
        yield Case(
            f"case{index}",
            arrays,
            split="val" if index % 3 == 2 else "train",
            spacing=(2.5, 0.7, 0.7),
            origin=(-100.0, -90.0, 50.0 + index),
        )


def noise_header(fields: int = 2, **config: Any) -> SetHeader:
    return SetHeader(
        kind="image",
        provenance=derive("preprocess", config, seed=0, sources="source-1"),
        intensity=Intensity(),
        vector_fields=tuple(f"field{i}" for i in range(fields)),
    )


@pytest.fixture
def make_set(tmp_path: Path) -> Callable[..., Path]:
    """Write a set of noise and return its path."""

    def make(name: str = "set.h5", *, fields: int = 2, **options: Any) -> Path:
        path = tmp_path / name
        with create_set(path, noise_header(fields, name=name), force=True) as writer:
            for case in noise_cases(fields=fields, **options):
                writer.write(case)
        return path

    return make


@pytest.fixture
def age() -> Callable[..., Path]:
    """Write a stored set again as medgen 0.1 did: `age(path, header={...}, tail={...})` changes these facts."""

    def write(path: Path, **changes: dict[str, Any]) -> Path:
        with h5py.File(path, "a") as file:
            for name in ("header", "tail"):
                facts = msgspec.json.decode(file[name][...].tobytes(), type=dict[str, Any]) | changes.get(name, {})
                file.attrs[name] = msgspec.json.encode(facts, order="sorted").decode()
                del file[name]
            for group in (file, file["case"]):
                for name in column_names(group):
                    texts = np.array(read_texts(group, name), dtype=object)
                    del group[name], group[name + "_ends"]
                    kind = h5py.string_dtype()
                    group.create_dataset(name, data=texts, dtype=kind, chunks=(1024,), maxshape=(None,))
        return path

    return write


@pytest.fixture
def medgen() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run the command as a process: `medgen("info", path)`; keyword arguments are those of subprocess.run.

    It forks, which saves seconds of imports; with another environment it starts anew, since libraries read that first.
    """

    def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
        words = [str(one) for one in arguments]
        settings: dict[str, Any] = {"timeout": 240, **options}
        if "input" not in options:
            settings.setdefault("stdin", subprocess.DEVNULL)
        if settings.keys() <= {"timeout", "input", *STREAMS}:
            return run_forked(words, **settings)
        settings["env"] = {**os.environ, **options.get("env", {})}
        command = [sys.executable, "-m", "medgen.cli.app", *words]
        return subprocess.run(command, check=False, **{"capture_output": True, **settings})

    return run


@pytest.fixture
def write_slice() -> Callable[..., Path]:
    """Write one CT slice: `write_slice(path, pixels, z=2.5, RescaleSlope=2, ...)`; a tag of None is left out."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    def write(path: Path, pixels: np.ndarray, *, z: float = 0.0, **tags: Any) -> Path:
        colour = pixels.ndim == 3
        dataset = Dataset()
        defaults: dict[str, Any] = {
            "SOPClassUID": CTImageStorage,
            "SOPInstanceUID": f"1.2.3.4.{int.from_bytes(path.stem.encode()[-12:], 'big')}",
            "StudyInstanceUID": "1.2.3.1",
            "SeriesInstanceUID": "1.2.3.2",
            "PatientID": "SECRET-PATIENT",
            "PatientName": "Secret^Name",
            "StudyDate": "19700102",
            "Modality": "CT",
            "Rows": pixels.shape[-3 if colour else -2],
            "Columns": pixels.shape[-2 if colour else -1],
            "SamplesPerPixel": 3 if colour else 1,
            "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
            "BitsAllocated": pixels.dtype.itemsize * 8,
            "BitsStored": pixels.dtype.itemsize * 8,
            "HighBit": pixels.dtype.itemsize * 8 - 1,
            "PixelRepresentation": int(pixels.dtype.kind == "i"),
            "ImagePositionPatient": [-10.0, -20.0, z],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [0.5, 0.5],
            "SliceThickness": 2.5,
            "RescaleSlope": 1,
            "RescaleIntercept": 0,
        }
        if colour:
            defaults["PlanarConfiguration"] = 0
        for name, value in {**defaults, **tags}.items():
            if value is not None and name != "TransferSyntaxUID":
                setattr(dataset, name, value)
        dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = tags.get("TransferSyntaxUID", ExplicitVRLittleEndian)
        meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2")
        dataset.file_meta = meta
        path.parent.mkdir(parents=True, exist_ok=True)
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
        return path

    return write


FIELDS = ("has_nodule", "x", "y", "size", "malignancy", "texture")
HU = Intensity()


def write_labelled_set(path: Path, depths: tuple[int, ...] = (3, 1, 2, 4), side: int = 32) -> Path:
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
    config = msgspec.convert(
        {"latent_channels": 4, "widths": (8, 16, 16), "blocks": 1, "groups": 4, **changes}, VAEConfig
    )
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


def write_interpolator(path: Path, vae: str, strength: float = 0.1, channels: int = 4) -> None:
    """An interpolator with random weights for the VAE with this digest; without `strength` it answers zero."""
    config = UNetConfig(
        dims=3,
        in_channels=2 * channels + 2,
        out_channels=channels,
        widths=(8, 16),
        blocks=1,
        attention=("none", "none"),
        mid_attention="full",
        head_width=16,
        time_width=16,
        groups=4,
        vector_size=3,
        vector_hidden=8,
    )
    torch.manual_seed(0)
    network = UNet(config)
    for parameter in network.parameters():
        if strength and not parameter.any():
            torch.nn.init.normal_(parameter, std=strength)
    facts = InterpolatorFacts(
        schedule=plain(ScheduleConfig(kind="cosine")),
        objective="x0",
        intensity=HU,
        vae_digest=vae,
        latent_scale=0.5,
        latent_shift=0.25,
        residual_std=0.3,
        depth=12,
        plane=(32, 32),
        thick_spacing=(2.0, 8.0),
        thin_spacing=(1.0, 1.0),
    )
    save_model(
        path,
        kind="interpolator",
        config=plain(config),
        weights=network.state_dict(),
        facts=msgspec.to_builtins(facts),
        provenance=derive("train-diffusion", {"strength": strength, "channels": channels}),
    )


def write_normalizer(path: Path, vae: Model | None, seed: int = 0) -> Model:
    """A normalizer with random weights for the latents of `vae`, or for 1 x 32 x 32 images without one."""
    channels = 1 if vae is None else 4
    config = UNetConfig(
        in_channels=channels, out_channels=channels, widths=(16, 32), blocks=1, attention=("none", "full"),
        head_width=16, time_width=32, groups=8, heads=("diffusion", "flow"),
    )  # fmt: skip
    torch.manual_seed(seed)
    network = UNet(config)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    facts = NormalizerFacts(
        space="latent" if vae else "image",
        shape=(4, 8, 8) if vae else (1, 32, 32),
        schedule=plain(ScheduleConfig(kind="linear", beta_start=1e-4)),
        objective="eps",
        flow_schedule=plain(ScheduleConfig(kind="flow")),
        intensity=HU,
        vae_digest=vae.digest if vae else "",
        latent_scale=0.5,
        latent_shift=0.25,
    )
    weights = network.state_dict()
    return save_model(
        path,
        kind="normalizer",
        config=plain(config),
        weights={name: 2 * weight for name, weight in weights.items()},  # those before the last are another network
        ema=weights,
        facts=msgspec.to_builtins(facts),
        provenance=derive("train-diffusion", {"seed": seed, "learner": "normalizer"}),
    )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images.h5, vae.safetensors, model.safetensors (latent), pixels.safetensors (image space).

    And in interpolators/: `random`, `zero`, which answers zero to everything, and `rearranged`, for no VAE that exists.
    """
    folder = tmp_path_factory.mktemp("tiny")
    write_labelled_set(folder / "images.h5")
    write_vae(folder / "vae.safetensors")
    vae = open_model(folder / "vae.safetensors", kind="vae")
    write_denoiser(folder / "model.safetensors", vae)
    write_denoiser(folder / "pixels.safetensors", None)
    write_normalizer(folder / "normalizer.safetensors", vae)
    write_normalizer(folder / "pixel-normalizer.safetensors", None)
    (folder / "interpolators").mkdir()
    write_interpolator(folder / "interpolators" / "random", vae.digest)
    write_interpolator(folder / "interpolators" / "zero", vae.digest, strength=0.0)
    write_interpolator(folder / "interpolators" / "rearranged", "rearranged", channels=16)
    return folder
