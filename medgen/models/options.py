"""Options that every command that runs trained networks has in common."""

from __future__ import annotations

from medgen.config import option

COMPUTING = "Computing"
"""Heading of these options in the help of commands."""
EMA = option("Averaged weights, or the last.", group=COMPUTING)
PRECISION = option("Precision of the networks.", group=COMPUTING)
