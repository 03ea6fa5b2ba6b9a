"""Albums: images are pasted where the scene says, with the stated colour, from the given splits only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from visualglm.errors import UsageError
from visualglm.evaluation.scenes import exchanges, render_scene, scene_of
from visualglm.evaluation.scenes.colours import dominant_colour
from visualglm.evaluation.scenes.concepts import by_key, number_of
from visualglm.evaluation.scenes.scene import SceneMix
from visualglm_lab.scenes.cutouts import Album
from visualglm_lab.scenes.patch_labels import patch_labels

IMAGES = [
    ("dog", "brown", "train"),
    ("banana", "yellow", "train"),
    ("apple", "red", "train"),
    ("cat", "black", "test"),
]
RGB = {"brown": (130, 75, 35), "yellow": (250, 220, 40), "red": (220, 30, 30), "black": (20, 20, 20)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("album")
    pixels, lines = [], []
    for index, (concept, colour, split) in enumerate(IMAGES):
        image = Image.new("RGBA", (128, 128))
        ImageDraw.Draw(image).ellipse((4, 4, 124, 124), fill=(*RGB[colour], 255))
        pixels.append(np.asarray(image))
        line = {"index": index, "concept": concept, "source": "s", "style": "emoji", "cutout": True, "split": split}
        lines.append(json.dumps(line))
    np.save(folder / "album.npy", np.stack(pixels))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_only_the_asked_splits_are_pasted(folder: Path) -> None:
    album = Album(folder)
    assert {kind.key for kind in album.kinds} == {"dog", "banana", "apple"}
    shown = {item.kind.key for s in range(40) for item in scene_of(s, 6, album=album, mix=SceneMix(pasted=1.0)).items}
    assert shown == {"dog", "banana", "apple"}


def test_colours_are_told_from_the_pixels(folder: Path) -> None:
    album = Album(folder, ("train", "test"))
    assert [colour.key for entry in album.entries if (colour := album.colour(entry.index))] == [c for _, c, _ in IMAGES]


def test_a_thing_of_many_colours_has_none() -> None:
    pixels = np.full((32, 32, 4), 255, dtype=np.uint8)
    pixels[:16, :, :3], pixels[16:, :, :3] = (220, 30, 30), (30, 60, 220)
    assert dominant_colour(pixels) is None


def test_pasted_things_stand_where_the_truth_says(folder: Path) -> None:
    album = Album(folder)
    for seed in range(20):
        scene = scene_of(seed, 4, album=album, mix=SceneMix(pasted=1.0))
        pixels, labels = np.asarray(render_scene(scene, (288, 288)), dtype=int), patch_labels(scene, 9)
        for item in scene.items:
            x, y = int(item.x * 288), int(item.y * 288)
            assert np.abs(pixels[y, x] - np.array(item.tone)).sum() < 30
            assert labels.kinds[int(item.y * 9) * 9 + int(item.x * 9)] == 1 + number_of()[item.kind]


@pytest.mark.parametrize("language", ["zh", "en"])
def test_questions_about_pasted_things(folder: Path, language: str) -> None:
    album = Album(folder)
    said = set()
    for seed in range(60):
        scene = scene_of(seed, 5, album=album, mix=SceneMix(pasted=0.9, themes=0.3, large=0.2, frames=0.2, relit=0.5))
        said |= {e.task for e in exchanges(scene, language, np.random.default_rng(seed))}  # type: ignore[arg-type]
    assert {"category", "any", "size", "same colour", "odd", "colour", "exists"} <= said


def test_a_folder_without_an_album_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="make mini-data"):
        Album(tmp_path)


def test_the_tables_names_are_known() -> None:
    assert by_key()["dog"].zh[0] == "狗"
