"""Lets the C library give the memory of gathered layers back at once, where layers are gathered in CPU memory."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_LARGE_BYTES = 1024**2


def return_large_blocks() -> None:
    """From now on, blocks of a MiB or more do not come from this process's heap.

    glibc takes blocks of up to 32 MiB from the heap once one of that size has been freed, and a heap shrinks at its end
    only: layers that were let go stay resident, several times what is held. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
