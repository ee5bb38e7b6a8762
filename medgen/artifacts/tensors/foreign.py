"""Weights that come from elsewhere: a local safetensors file, never a pickle."""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from medgen.artifacts.tensors.file import in_memory, named_in_utf8, not_finite
from medgen.errors import DataError, InputMissingError, StorageError

PICKLED = {".pth", ".bin", ".ckpt", ".pkl"}


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file by name; DataError for pickles, damaged files and non-finite values."""
    if path.suffix in PICKLED:
        raise DataError(
            f"{path}: a pickle, which can run code when it is read; where you trust it, convert it once: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'weights.safetensors')"
        )
    try:
        tensors = in_memory(safetensors.torch.load_file(named_in_utf8(path)))
    except FileNotFoundError:
        raise InputMissingError(f"{path}: no such file") from None
    except safetensors.SafetensorError as error:
        raise DataError(f"{path}: not a whole safetensors file ({error}); copy it again") from None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from None
    if name := not_finite(tensors):
        raise DataError(f"{path}: weight '{name}' is not finite; get the file again")
    return tensors
