"""Splits by patient, from keyed hashes, so that new data cannot change them."""

from __future__ import annotations

from hashlib import blake2b

from medgen.artifacts.schema import SPLITS
from medgen.errors import ConfigError


def uniform(key: bytes, name: str) -> float:
    """A number in [0, 1) that belongs to `name`."""
    digest = blake2b(name.encode(), key=key, digest_size=8, person=b"medgen-split").digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def parse_fractions(text: str) -> tuple[float, ...]:
    """`0.8,0.1,0.1` -> fractions of train, val, test (a missing one is 0); ConfigError if they do not add up to 1."""
    try:
        fractions = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"split fractions '{text}': expected shares of train,val,test such as 0.8,0.1,0.1") from None
    fractions += [0.0] * (len(SPLITS) - len(fractions))
    if len(fractions) > len(SPLITS) or not all(0 <= part <= 1 for part in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise ConfigError(f"split fractions '{text}': shares of train,val,test must lie in [0, 1] and add up to 1")
    return tuple(fractions)


def held_out(fractions: tuple[float, ...]) -> tuple[float, ...]:
    """The fractions for cases that must not be trained on: 0 for train, the others in their ratio."""
    rest = sum(fractions[1:])
    return (0.0, *(part / rest for part in fractions[1:])) if rest else (0.0,) * (len(fractions) - 1) + (1.0,)


def split_of(key: bytes, patient: str, fractions: tuple[float, ...]) -> str:
    """The split of a patient: it depends on nothing but the patient, the key and the fractions."""
    number = uniform(key, patient)
    upper = 0.0
    for name, fraction in zip(SPLITS, fractions, strict=True):
        upper += fraction
        if number < upper:
            return name
    return next(name for name, fraction in zip(reversed(SPLITS), reversed(fractions), strict=True) if fraction > 0)
