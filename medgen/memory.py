"""How this process takes memory from the system."""

from __future__ import annotations

import contextlib
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of glibc's <malloc.h>


def keep_freed_memory() -> None:
    """Keep what is freed for what is needed next, instead of handing large arrays back to the system one by one.

    The system clears each page that it hands out, on its first use: reading a DICOM slice takes two to three times as
    long, a VAE a tenth longer. The process does not grow beyond its peak by this. Only glibc can be told; elsewhere
    nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # another C library
        set_option = ctypes.CDLL(None).mallopt
        set_option(_MMAP_MAX, 0)
        set_option(_TRIM_THRESHOLD, -1)
