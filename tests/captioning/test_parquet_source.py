"""Parquet as a source: paths, images inside (as Hugging Face's `datasets` writes them), questions, and mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import visualglm
from visualglm.captioning.local_engine import check_sidecars
from visualglm.captioning.sources import read_source
from visualglm.errors import UsageError

pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs visualglm[ray]")
from pyarrow import parquet  # noqa: E402

SAMPLES = sorted((visualglm.packed_model() / "samples").glob("*.png"))[:3]


def write(file: Path, row_group: int = 2, **columns: list[Any]) -> Path:
    parquet.write_table(pyarrow.table(columns), file, row_group_size=row_group)
    return file


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "list.parquet", image=["a.png", "b.png", "a.png"], question=["甲？", None, "甲？"])
    items = read_source(str(file))
    assert [(item.image, item.file, item.question) for item in items] == [
        ("a.png", tmp_path / "a.png", "甲？"),
        ("b.png", tmp_path / "b.png", None),
    ]


def test_images_inside_are_read_from_their_row_groups(tmp_path: Path) -> None:
    inside: list[Any] = [{"bytes": sample.read_bytes(), "path": sample.name} for sample in SAMPLES]
    inside += [{"bytes": SAMPLES[0].read_bytes(), "path": None}, {"bytes": None, "path": str(SAMPLES[1])}, None]
    items = read_source(str(write(tmp_path / "pictures.parquet", image=inside, row_group=2)))
    assert [item.image for item in items] == [*(sample.name for sample in SAMPLES), "3", str(SAMPLES[1]), "5"]
    assert [item.group for item in items] == [0, 0, 1, 1, 2, 2]
    wanted = [*SAMPLES, SAMPLES[0], SAMPLES[1]]
    assert [item.read() for item in items[:5]] == [sample.read_bytes() for sample in wanted]
    with pytest.raises(OSError, match="neither bytes nor a path"):
        items[5].read()
    with pytest.raises(UsageError, match=r"no \.txt can be written"):
        check_sidecars(items)


def test_images_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """A number that a name bears already is passed over; a row without a name keeps its number."""
    names = ["image.png", "image.png", "image.png#2", "image.png", None, "4"]
    inside = [{"bytes": b"%d" % number, "path": name} for number, name in enumerate(names)]
    items = read_source(str(write(tmp_path / "pictures.parquet", image=inside)))
    assert [item.image for item in items] == ["image.png", "image.png#3", "image.png#2", "image.png#4", "4", "4#2"]
    assert [item.read() for item in items] == [b"%d" % number for number in range(6)]


def test_a_glob_tells_the_shards_apart(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write(tmp_path / f"{name}.parquet", image=[{"bytes": SAMPLES[0].read_bytes(), "path": "0.png"}])
    items = read_source(str(tmp_path / "*.parquet"))
    assert [item.image for item in items] == ["x.parquet/0.png", "y.parquet/0.png"]


@pytest.mark.parametrize(
    ("columns", "named"),
    [({"text": ["a"]}, "no images"), ({"image": [1]}, "no images"), ({"image": ["a", None]}, "row 2")],
)
def test_mistakes(tmp_path: Path, columns: dict[str, list[Any]], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        read_source(str(write(tmp_path / "list.parquet", **columns)))
    (tmp_path / "no.parquet").write_text("no")
    with pytest.raises(UsageError, match="as Parquet"):
        read_source(str(tmp_path / "no.parquet"))
