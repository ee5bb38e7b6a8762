"""The available feature extractors: the built-in one, Inception from its weights, a TorchScript, a VAE's encoder.

None of them unpickles. A TorchScript is read by torch's own reader, which accepts only TorchScript's types and refuses
any other name in a pickle. But it is a program: use one only from a source whose programs you would run.
"""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from medgen.artifacts.model_record import read_record
from medgen.artifacts.schema import as_bytes
from medgen.artifacts.tensors.foreign import read_weights
from medgen.errors import DataError, InputMissingError
from medgen.evaluation.features.features import Extractor
from medgen.evaluation.features.options import TorchScriptOptions
from medgen.models.trained import FrozenVAE
from medgen.nets.compute import exact_float32, lay_channels_last
from medgen.nets.perception.features import FixedFeatures
from medgen.nets.perception.inception import InceptionV3

ZIP = b"PK\x03\x04"
GRID = 4
"""Cells a side over which the latents of a VAE are averaged."""


def open_extractor(features: str, torchscript: TorchScriptOptions, device: torch.device) -> Extractor:
    """The extractor that `--features` names: built in, a medgen VAE, or another file."""
    if features == "builtin":
        return builtin_extractor(device)
    path = Path(features)
    if not path.is_file():
        raise InputMissingError(f"--features {path}: neither 'builtin' nor a file")
    try:
        read_record(path)
    except DataError:  # not made by medgen
        return file_extractor(path, torchscript, device)
    autoencoder = FrozenVAE.load(path, device, "float32")  # figures must not depend on the processor
    return latent_extractor(lambda images: autoencoder.encode(images).mean, autoencoder.model.digest)


def builtin_extractor(device: torch.device | str = "cpu") -> Extractor:
    """The fixed features that need no download."""
    network = FixedFeatures().to(device)
    return Extractor("builtin", network.digest, lambda x: network.pooled(x.to(device)).cpu())


def inception_extractor(path: Path, device: torch.device | str = "cpu") -> Extractor:
    """Inception v3 of FID with the weights in a .safetensors file; DataError if it holds others."""
    weights = read_weights(path)
    network = InceptionV3()
    try:
        with torch.no_grad():
            network.load(weights)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    network.eval().requires_grad_(False).to(device)
    lay_channels_last(network)  # a quarter faster on CPU

    def pooled(images: Tensor) -> Tensor:
        features: Tensor = network(as_colour(eight_bits(images)).to(device))
        return features.cpu()

    def probabilities(features: Tensor) -> Tensor:
        return network.logits(features.to(device)).softmax(dim=1).cpu()

    return Extractor("inception-v3", digest_of(weights), pooled, probabilities)


def torchscript_extractor(path: Path, options: TorchScriptOptions, device: torch.device | str = "cpu") -> Extractor:
    """The features (B, F) that a TorchScript archive computes; DataError if the file is none.

    It gets (B, bands, H, W), red first, with black and white at the ends of `options.range`, and does its own resizing.
    """
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise DataError(
                f"{path}: a pickle, not a TorchScript; where you trust it, convert it once: "
                "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'weights.safetensors')"
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            script = torch.jit.load(path, map_location=device).eval()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: a TorchScript that torch {torch.__version__} cannot read: {reason}") from None
    # Published Inception scripts return classes unless asked for features.
    names = {argument.name for argument in script.forward.schema.arguments}
    extra = {"return_features": True} if "return_features" in names else {}

    def pooled(images: Tensor) -> Tensor:
        low, high = options.range
        bands = as_colour(images) if options.bands == 3 else images.mean(dim=1, keepdim=True)
        x = eight_bits(bands) if (low, high) == (0, 255) else (bands + 1) * ((high - low) / 2) + low
        try:
            with exact_float32():
                features = script(x.to(device), **extra)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-300:]
            raise DataError(f"{path}: fails on images {tuple(x.shape)} of {x.dtype}: {reason}") from None
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(images):
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise DataError(f"{path}: must give features (B, F), one row an image; it gave {got}")
        return features.float().cpu()

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Extractor("torchscript", digest, pooled)


def latent_extractor(encode: Callable[[Tensor], Tensor], digest: str) -> Extractor:
    """A VAE's mean latents (B, c, h, w), averaged over a grid, and their spread per channel."""

    def pooled(images: Tensor) -> Tensor:
        latents = encode(images).float().cpu()
        cells = torch.nn.functional.adaptive_avg_pool2d(latents, GRID).flatten(1)
        return torch.cat([cells, latents.std(dim=(2, 3))], dim=1)

    return Extractor("vae", digest, pooled)


def file_extractor(path: Path, options: TorchScriptOptions, device: torch.device | str = "cpu") -> Extractor:
    """The extractor in a file of weights or a TorchScript, told apart by its first bytes."""
    with path.open("rb") as file:
        start = file.read(len(ZIP))
    return torchscript_extractor(path, options, device) if start == ZIP else inception_extractor(path, device)


def eight_bits(images: Tensor) -> Tensor:
    """Images in [-1, 1] -> uint8, rounded as in image files, so that real and generated ones are treated alike."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def as_colour(images: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 3, H, W): gray three times, colours as they are, red first."""
    if images.shape[1] not in (1, 3):
        raise DataError(f"images of {images.shape[1]} bands are neither gray nor colour; use --features builtin")
    return images.expand(-1, 3, -1, -1)


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and values, without the counters of batch normalisation."""
    running = hashlib.sha256()
    for name in sorted(name for name in weights if not name.endswith("num_batches_tracked")):
        tensor = weights[name].contiguous()
        running.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        running.update(as_bytes(tensor.reshape(-1).view(torch.uint8).numpy()))
    return running.hexdigest()
