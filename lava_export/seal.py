"""A seal on our HDF5 files: damage is noticed before the HDF5 library sees it.

The library can run in circles on a damaged file, and a bit that flips in a weight makes another
network without a word. So a file of ours begins with a user block, which HDF5 leaves to the
application: 512 bytes that say the SHA-256 of all that follows. Lava and h5py read past it.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from loihi import PumiceError, files

BLOCK = 512
"""Bytes of the user block: the smallest that HDF5 allows."""
_HDF5 = b"\x89HDF\r\n\x1a\n"
_TEXT = "pumice: what follows these {block} bytes is HDF5 with the SHA-256 {digest}\n"
_SEAL = re.compile(re.escape(_TEXT).replace(r"\{block\}", "512").replace(r"\{digest\}", "(.{64})"))
_PIECE = 2**20


class SealError(PumiceError):
    """A file whose content is not what was sealed."""


def seal(image: memoryview | bytearray) -> None:
    """Fill in the user block of an HDF5 file in memory, which has been left empty."""
    digest = hashlib.sha256(memoryview(image)[BLOCK:]).hexdigest()
    image[:BLOCK] = _TEXT.format(block=BLOCK, digest=digest).encode().ljust(BLOCK, b"\0")


def reseal(path: str | Path) -> None:
    """Seal a file of ours again, after an edit of your own with h5py.

    Raises :class:`SealError` where there is no user block.
    """
    image = bytearray(Path(path).read_bytes())
    if image[BLOCK : BLOCK + len(_HDF5)] != _HDF5:
        raise SealError(f"{path}: has no user block for a seal: it is not a file of pumice's")
    seal(image)
    files.write(Path(path), bytes(image))


def holds(path: Path) -> bool:
    """Whether a file is sealed, and whole; False: it never was, it is another's.

    Raises :class:`SealError` where the seal or what is under it is damaged, :class:`OSError` where
    the file cannot be read.
    """
    with path.open("rb") as file:
        block = file.read(BLOCK)
        found = _SEAL.match(block.decode("ascii", errors="replace"))
        if found is None:
            if file.read(len(_HDF5)) == _HDF5:
                raise SealError(
                    "it is damaged: its first 512 bytes are not the seal they should be"
                )
            return False
        digest = hashlib.sha256()
        while piece := file.read(_PIECE):
            digest.update(piece)
        if digest.hexdigest() != found[1]:
            raise SealError(
                "it is not what was written: it is damaged, or was edited; if the change is yours, "
                "call lava_export.seal.reseal on it"
            )
        return True
