"""Real data, as plain numpy arrays: images, event recordings, or a user's own ``.npz``.

:func:`load` takes a name or a path (:mod:`trainer.data.names`); docs/data.md lists them all. Images
are read as they were published (:mod:`~trainer.data.packages`, :mod:`~trainer.data.idx`,
:mod:`~trainer.data.cifar`); event recordings are binned to frames (:mod:`~trainer.data.events`,
:mod:`~trainer.data.recordings`) and kept on the disk (:mod:`~trainer.data.cache`), simulated ones
(:mod:`~trainer.data.saccades`) likewise. Nothing here needs torch.
"""

from trainer.data.dataset import DataError, Dataset, Shape, hold_out
from trainer.data.events import Binning, Events
from trainer.data.idx import IDX_FILES, read_idx
from trainer.data.names import NAMES, Listed, listing, load, save_saccades
from trainer.data.npz import save
from trainer.data.packages import PACKAGES, default_root, fetch, find, folder

__all__ = [
    "IDX_FILES",
    "NAMES",
    "PACKAGES",
    "Binning",
    "DataError",
    "Dataset",
    "Events",
    "Listed",
    "Shape",
    "default_root",
    "fetch",
    "find",
    "folder",
    "hold_out",
    "listing",
    "load",
    "read_idx",
    "save",
    "save_saccades",
]
