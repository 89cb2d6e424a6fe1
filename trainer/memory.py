"""Memory: what is freed stays with the process, and in what order images lie.

A step's tensors come and go, each of some megabytes. glibc gives the end of its heap back to the
system as soon as some of it is free, and takes large blocks from the system one by one; each comes
back page by page, filled with zeros. A training step can spend a sixth of its time on that.
"""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

_TRIM, _MAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of <malloc.h>
KEPT = 2**30
"""Bytes at the heap's end that may be free before they are given back."""
MAPPED = 2**25
"""Blocks from here on come from the system each; the most that glibc lets one say."""


@functools.cache
def keep_freed() -> bool:
    """Has glibc keep what is freed, for the whole process; False where there is another malloc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_TRIM, KEPT) and mallopt(_MAP, MAPPED))


def order(x: Tensor) -> torch.memory_format:
    """``channels_last`` for images that lie pixel by pixel, all channels of one beside each other,
    and only so; else ``contiguous_format``."""
    pixels = torch.channels_last
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=pixels):
        return pixels
    return torch.contiguous_format


def pixel_by_pixel(x: Tensor) -> Tensor:
    """Images in that order, as convolutions on the CPU give them; all else as it is."""
    # Unlike contiguous(), it says so in the strides of a single channel too, where oneDNN looks.
    return x.to(memory_format=torch.channels_last) if x.dim() == 4 else x


def is_dense(x: Tensor) -> bool:
    """Whether a tensor fills its memory, in one of the two orders."""
    return x.is_contiguous(memory_format=order(x))
