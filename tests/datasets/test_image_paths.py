"""Paths in data: every spelling finds the same file, and what is no file is said in one clause."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from visualglm.datasets.data_files import DataFile
from visualglm.datasets.image_paths import locate_image, require_image
from visualglm.datasets.row_files import RowError
from visualglm.errors import ImageError


@pytest.fixture
def image(tmp_path: Path) -> Path:
    image = tmp_path / "data" / "deep folder" / "图.png"
    image.parent.mkdir(parents=True)
    image.touch()
    return image


def test_every_spelling_finds_the_file(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in (
        *("deep folder/图.png", "deep folder\\图.png", ".\\deep folder\\图.png", "data\\deep folder\\图.png"),
        *(str(image), image.as_uri(), f"file://localhost{image}", f"file:{image}", "~/data/deep folder/图.png"),
    ):
        with contextlib.chdir(tmp_path):
            assert require_image(source, tmp_path / "data").samefile(image), source


def test_a_file_whose_name_has_a_backslash_or_a_tilde(tmp_path: Path) -> None:
    for name in ("a\\b.png", "~a.png"):
        (tmp_path / name).touch()
        with contextlib.chdir(tmp_path):
            assert require_image(name, tmp_path) == tmp_path / name


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("https://example.com/a.png", "is a URL, and images are not fetched"),
        ("S3://bucket/a.png", "is a URL"),
        ("file://server/a.png", "on another machine"),
        ("file://[a.png", "not a valid file URL"),
        ("~nobody-of-this-name/a.png", "unknown user"),
        ("iVBORw0KGgo" * 1000, "not a path; .*data:image"),
        ("nowhere.png", "neither beside"),
        ("link.png", "broken link"),
        ("loop.png", "broken link"),
        ("a\0.png", "neither beside"),
        ("x" * 300, "neither beside"),
        ("\ud800.png", "neither beside"),
    ],
)
def test_what_is_no_file(tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / "link.png").symlink_to("nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    with pytest.raises(ImageError, match=said) as raised:
        require_image(source, tmp_path)
    assert "Errno" not in str(raised.value) and len(str(raised.value)) < 500
    (tmp_path / "a.jsonl").write_text(json.dumps({"img": source, "prompt": "q", "label": "a"}))
    with pytest.raises(RowError, match=f"row 1: .*{said}"):
        DataFile(tmp_path / "a.jsonl")[0]


def test_a_missing_file_keeps_its_place(tmp_path: Path) -> None:
    assert locate_image("nowhere.png", tmp_path) == tmp_path / "nowhere.png"
