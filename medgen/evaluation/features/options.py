"""Options of features that are not built in."""

from __future__ import annotations

from typing import Literal

from medgen.config import Options


class TorchScriptOptions(Options, frozen=True):
    """The input that a TorchScript given as --features expects."""

    range: tuple[float, float] = (-1.0, 1.0)
    """Its values for black and white; [0, 255] means 8-bit integers."""
    bands: Literal[1, 3] = 3
    """Gray images are repeated for 3, colours averaged for 1."""
