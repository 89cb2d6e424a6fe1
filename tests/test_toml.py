"""TOML that asks for too much, in every place that reads some: one line, of the caller's class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from loihi import boards, toml
from loihi.errors import PumiceError
from onchip.spec import LearningError, Spec
from trainer.config import ConfigError, TrainConfig, parsed
from trainer.sweep.space import Space, SweepError

FAR = [
    ("seed = " + "1" * 5000, "a whole number of more than 100 digits"),
    (
        "seed = 0x" + "f" * 5000,
        "a whole number of more than 100 digits",
    ),  # read, not shown
    ("seed = [[-1" + "0" * 100 + "]]", "a whole number of more than 100 digits"),
    ("seed = " + "[" * 5000, "in each other"),
    ("seed = " + "[" * 70 + "]" * 70, "in each other"),
    ("a." * 300_000 + "a = 1", "a key of more than 64 names"),  # hours, if parsed
    ("[a" + " . 'a'" * 70 + "]", "a key of more than 64 names"),
    (b"seed = '\xff'", "no UTF-8 text at byte 8"),
    (b"#" * (toml.LARGEST + 1), "has a few lines"),
    ("seed = ", "at end of document"),
]
READERS: list[tuple[Callable[[Path], object], type[PumiceError]]] = [
    (toml.read, toml.TomlError),
    (boards.read, boards.BoardError),
    (TrainConfig.read, ConfigError),
    (Spec.read, LearningError),
    (lambda path: Space.read(path, TrainConfig()), SweepError),
]


@pytest.mark.parametrize(("read", "error"), READERS, ids=[e.__name__ for _, e in READERS])
def test_what_no_file_says_is_one_line(
    read: Callable[[Path], object], error: type[PumiceError], tmp_path: Path
) -> None:
    path = tmp_path / "a.toml"
    for content, words in FAR:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(error) as caught:
            read(path)
        line = str(caught.value)
        assert line.startswith(f"{path}: ") and line.count(str(path)) == 1
        assert words in line and "\n" not in line and len(line) < len(str(path)) + 200
    with pytest.raises(error, match=r"none\.toml: No such file"):
        read(tmp_path / "none.toml")


def test_what_a_file_may_say(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    deep = "[" * 62 + "1.5" + "]" * 62
    path.write_text(
        f"low = {-(10**100) + 1}\r\nhigh = {2**64}\nname = 'é'\n{'a.' * 60}a = 1\nd = {deep}",
        newline="",
    )
    found = toml.read(path)
    assert (found["low"], found["high"], found["name"]) == (1 - 10**100, 2**64, "é")


@pytest.mark.parametrize("text", ["1" * 5000, "0x" + "f" * 5000, "[" * 5000, "{a=" * 5000])
def test_settings_of_the_command_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^seed is '.{78}…: expected int, 0\.\.2147483647$"):
        TrainConfig.from_dict({"seed": parsed(text)})
    assert (parsed("12"), parsed("[1, 2]"), parsed("sltt")) == (12, [1, 2], "sltt")
