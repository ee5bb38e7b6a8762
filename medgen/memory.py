"""How this process gets memory from the system."""

from __future__ import annotations

import contextlib
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of glibc's <malloc.h>


def keep_freed_memory() -> None:
    """Keep freed memory for reuse, instead of returning each large array to the system.

    The system clears each page that it hands out, on its first use: with that, reading a DICOM slice takes two to three
    times as long, and a VAE a tenth longer. Keeping memory does not raise the peak use of the process. This works only
    with glibc; elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # another C library
        set_option = ctypes.CDLL(None).mallopt
        set_option(_MMAP_MAX, 0)
        set_option(_TRIM_THRESHOLD, -1)
