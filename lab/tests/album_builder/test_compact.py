"""An album as one file and back: the same rows and features, images nearly the same."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from visualglm_lab.album_builder.compact import expand, shrink


def test_an_album_comes_back(album: Path, tmp_path: Path) -> None:
    shrink(album, tmp_path / "album.avif")
    expand(tmp_path / "album.avif", tmp_path / "back")
    before, after = (np.load(folder / "album.npy") for folder in (album, tmp_path / "back"))
    assert before.shape == after.shape
    opaque = before[..., 3] > 200
    assert np.abs(before[opaque].astype(int) - after[opaque])[:, :3].mean() < 8
    assert (tmp_path / "back" / "manifest.jsonl").read_bytes() == (album / "manifest.jsonl").read_bytes()
    with zipfile.ZipFile(tmp_path / "album.avif") as packed:  # which also has features, if another test left some
        images = sum(one.compress_size for one in packed.infolist() if one.filename.endswith(".avif"))
    assert images < (album / "album.npy").stat().st_size / 10
