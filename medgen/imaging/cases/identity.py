"""Ids of cases: derived from their pixels and, if the user has a secret key, from their patient too.

There are few enough names and ids of patients that anyone who knows how they were hashed can try them all. So without a
secret, no output depends on them except the split, which reveals one or two bits.
"""

from __future__ import annotations

import os
from hashlib import blake2b

from medgen.imaging.reading.series import SliceStack

KEY_VARIABLE = "MEDGEN_ID_KEY"
_PUBLIC = "medgen"
_SHORTEST = 16


def secret_key() -> bytes | None:
    """The user's key, read from the environment so that it appears neither in the shell's history nor in process lists;
    None without one."""
    text = os.environ.get(KEY_VARIABLE)
    return _digest(text) if text else None


def weakness() -> str:
    """Why the user's key can be guessed; "" if it cannot, or there is none."""
    length = len(os.environ.get(KEY_VARIABLE, ""))
    few = f"{KEY_VARIABLE} has {length} letters, and can be found by trial; take 32 random ones: openssl rand -hex 16"
    return few if 0 < length < _SHORTEST else ""


def split_key(secret: bytes | None) -> bytes:
    """The key that splits and frames of reference are hashed with: the secret, or else a public constant."""
    return secret or _digest(_PUBLIC)


def telling_slice(stack: SliceStack) -> int:
    """Index of the slice whose pixels name the case: the middle one, which is unlikely to be air or in two series."""
    return len(stack.slices) // 2


def case_id(depth: int, pixels: bytes, patient: str = "", secret: bytes | None = None) -> str:
    """16 hexadecimal digits of the digest of the telling slice of `depth`; with a secret, after 12 of the patient.

    `patient` is the patient according to the files or labels; if it is "", the pixels take its place.
    """
    content = blake2b(depth.to_bytes(4, "big") + pixels, digest_size=8, person=b"medgen-pixels").hexdigest()
    if secret is None:
        return content
    person = blake2b((patient or content).encode(), key=secret, digest_size=6, person=b"medgen-patient")
    return f"{person.hexdigest()}-{content}"


def patient_in(case_id: str) -> str:
    """The patient's part of an id made with a secret, the same for all cases of one patient; "" without a secret."""
    person, dash, content = case_id.partition("-")
    return person if dash and len(person) == 12 and len(content.partition(".")[0]) == 16 else ""


def hashed_frame(key: bytes, reference: str) -> str:
    """A name for the frame of reference with this UID; "" for ""."""
    return blake2b(reference.encode(), key=key, digest_size=8, person=b"medgen-frame").hexdigest() if reference else ""


def owner_of(case_id: str) -> str:
    """The patient's part of an id, or the whole id where it does not tell the patient."""
    return patient_in(case_id) or case_id


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=32).digest()
