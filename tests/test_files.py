"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loihi import PumiceError, files


def test_a_failed_write_keeps_the_file_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write(tmp_path / "x", b"before")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        files.write(tmp_path / "x", b"after")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"before"


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(PumiceError, match="cannot be written: No such file"):
        files.write(tmp_path / "none" / "x", b"")
