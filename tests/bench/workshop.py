"""What the whole commands work on: a folder of DICOM series, and models of both libraries in files."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import msgspec
import pydicom
import torch
from pydicom import uid

from medgen.artifacts.model_file import save_model
from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Intensity
from medgen.config import plain
from medgen.diffusion.options import ScheduleConfig
from medgen.models.facts import DenoiserFacts, VAEFacts
from medgen.nets.unet import UNet
from medgen.nets.vae import VAE
from medgen.phantoms.folder import make_folder
from medgen.phantoms.options import ChestCTOptions

from . import monai_networks
from .networks import LATENT_CHANNELS, unet_config, vae_config

HU = Intensity(1.0, 0.0, "HU", (-1000.0, 400.0))


@dataclass(frozen=True)
class Chain:
    """The size of the whole commands."""

    unet_widths: tuple[int, ...] = (64, 128, 256)
    vae_widths: tuple[int, ...] = (32, 64, 128, 128)
    dicom_side: int = 512
    side: int = 256
    slices: int = 24
    """Slices a series."""
    encoded: int = 2
    """Series that become latents."""
    decoded: int = 12
    """Series that are decoded."""
    samples: int = 64
    steps: int = 20

    @property
    def latent_side(self) -> int:
        """Side of a latent."""
        return self.side // 2 ** (len(self.vae_widths) - 1)


def make_series(folder: Path, chain: Chain, count: int, syntax: uid.UID) -> Path:
    """`count` series of CT phantoms, one folder each, in one transfer syntax."""
    phantoms = folder.parent / "phantoms"
    if not phantoms.exists():
        options = ChestCTOptions(size=chain.dicom_side, slices=chain.slices, scout_fraction=0.0)
        make_folder("chest-ct", options, 2, phantoms, workers=0)
    archives = sorted((phantoms / "dicom").glob("*.zip"))
    for number in range(count):
        target = folder / f"series-{number:03d}"
        target.mkdir(parents=True)
        with zipfile.ZipFile(archives[number % len(archives)]) as archive:
            for index, member in enumerate(sorted(archive.namelist())):
                dataset = pydicom.dcmread(BytesIO(archive.read(member)))
                dataset.PatientID = dataset.StudyInstanceUID = dataset.SeriesInstanceUID = f"2.25.{number + 1}"
                dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"2.25.{number + 1}.{index + 1}"
                if dataset.file_meta.TransferSyntaxUID.is_compressed:
                    dataset.decompress(generate_instance_uid=False)
                dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
                dataset.PixelData = dataset.PixelData[:-1] + bytes([number])  # no series shows the pixels of another
                if syntax == uid.JPEGLSLossless:
                    dataset.compress(syntax, encoding_plugin="pyjpegls", generate_instance_uid=False)
                dataset.save_as(target / f"{index:04d}.dcm", enforce_file_format=True)
    return folder


def save_models(folder: Path, chain: Chain) -> None:
    """`vae.safetensors` and `unet.safetensors` for medgen, `vae.pt` and `unet.pt` for MONAI; untrained all."""
    torch.manual_seed(0)
    facts = msgspec.to_builtins(VAEFacts(HU, latent_scale=1.0, latent_shift=0.0))
    config = vae_config(chain.vae_widths)
    vae = save_model(
        folder / "vae.safetensors", kind="vae", config=plain(config), weights=VAE(config).state_dict(), facts=facts,
        provenance=derive("bench", {}),
    )  # fmt: skip
    side = chain.latent_side
    facts = msgspec.to_builtins(
        DenoiserFacts(
            "latent", (LATENT_CHANNELS, side, side), plain(ScheduleConfig()), "eps", HU, vae_digest=vae.digest
        )
    )
    config = unet_config(chain.unet_widths)
    save_model(
        folder / "unet.safetensors", kind="denoiser", config=plain(config), weights=UNet(config).state_dict(),
        facts=facts, provenance=derive("bench", {}, inputs=[vae]), inputs=[vae],
    )  # fmt: skip
    torch.save(monai_networks.vae(chain.vae_widths).state_dict(), folder / "vae.pt")
    torch.save(monai_networks.unet(chain.unet_widths).state_dict(), folder / "unet.pt")
