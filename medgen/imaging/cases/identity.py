"""What cases are called: after their pixels, and with a secret key of the user's own after their patient too.

Names and ids of patients are few enough to be guessed, one after the other, by whoever knows how they were hashed. So
without a secret nothing that leaves here depends on them but the split, which tells one bit or two.
"""

from __future__ import annotations

import os
from hashlib import blake2b

from medgen.imaging.reading.series import SliceStack

KEY_VARIABLE = "MEDGEN_ID_KEY"
_PUBLIC = "medgen"
_SHORTEST = 16


def secret_key() -> bytes | None:
    """The user's key, which stands in the environment and so neither in the shell's history nor in lists of processes;
    None without one."""
    text = os.environ.get(KEY_VARIABLE)
    return _digest(text) if text else None


def weakness() -> str:
    """Why the user's key can be guessed; "" where it cannot, or there is none."""
    length = len(os.environ.get(KEY_VARIABLE, ""))
    few = f"{KEY_VARIABLE} has {length} letters, and can be found by trial; take 32 random ones: openssl rand -hex 16"
    return few if 0 < length < _SHORTEST else ""


def split_key(secret: bytes | None) -> bytes:
    """What splits and frames of reference are hashed with: the secret, or else what everybody knows."""
    return secret or _digest(_PUBLIC)


def telling_slice(stack: SliceStack) -> int:
    """Index of the slice whose pixels name the case: the middle one, which is neither air nor another series' too."""
    return len(stack.slices) // 2


def case_id(depth: int, pixels: bytes, patient: str = "", secret: bytes | None = None) -> str:
    """16 hexadecimal digits of the digest of the telling slice of `depth`; with a secret, after 12 of the patient.

    `patient` is the patient as the files or labels tell; "" lets the pixels stand for whoever it is.
    """
    content = blake2b(depth.to_bytes(4, "big") + pixels, digest_size=8, person=b"medgen-pixels").hexdigest()
    if secret is None:
        return content
    person = blake2b((patient or content).encode(), key=secret, digest_size=6, person=b"medgen-patient")
    return f"{person.hexdigest()}-{content}"


def patient_in(case_id: str) -> str:
    """What an id made with a secret tells of the patient: the same for all cases of one; "" without a secret."""
    person, dash, content = case_id.partition("-")
    return person if dash and len(person) == 12 and len(content.partition(".")[0]) == 16 else ""


def hashed_frame(key: bytes, reference: str) -> str:
    """A name for the frame of reference with this UID; "" for ""."""
    return blake2b(reference.encode(), key=key, digest_size=8, person=b"medgen-frame").hexdigest() if reference else ""


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=32).digest()
