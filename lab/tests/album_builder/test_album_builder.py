"""Album builder: rendering, near-duplicates, splits without overlap, reproducible builds."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

pytest.importorskip("imagehash")
pytest.importorskip("resvg_py")

from visualglm.errors import UsageError
from visualglm_lab.album_builder.build import build
from visualglm_lab.album_builder.candidates import plain_code
from visualglm_lab.album_builder.config import AlbumRecipe, EmojiSource, Splits, read_album_recipe
from visualglm_lab.album_builder.near_duplicates import clusters, perceptual_hash
from visualglm_lab.album_builder.normalise import UnsuitableImageError, render
from visualglm_lab.album_builder.packages import open_package, parse_address
from visualglm_lab.album_builder.qt_resources import read_rcc
from visualglm_lab.album_builder.splits import DROPPED, Placed, split, unseen_concepts
from visualglm_lab.album_builder.write_album import Row

SHIPPED = Path(__file__).parents[2] / "recipes" / "mini" / "pictures.toml"
EMOJI = {"1f41c": "ant", "1f987": "bat", "1f43b": "bear", "1f9a1": "badger"}


def svg(seed: int, size: str = 'viewBox="0 0 100 50"', ground: str = "") -> bytes:
    """Return an SVG of twelve rectangles, different for every seed."""
    rng = np.random.default_rng(seed)
    boxes = "".join(
        f'<rect x="{x}" y="{y}" width="{w}" height="{h}" fill="rgb({r},{g},{b})"/>'
        for x, y, w, h, r, g, b in rng.integers((10, 5, 5, 5, 0, 0, 0), (70, 30, 25, 15, 256, 256, 256), (12, 7))
    )
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{ground}{boxes}</svg>'.encode()


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_a_cut_out_is_cropped_and_centred_with_straight_alpha() -> None:
    image = Image.new("RGBA", (200, 100), (255, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((20, 30, 99, 69), fill=(10, 200, 30, 255))
    drawn = render(png(image), "a.png")
    rows, columns = np.nonzero(drawn.pixels[..., 3] > 8)
    assert drawn.cutout and drawn.pixels.shape == (128, 128, 4)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (2, 125, 33, 94)
    assert drawn.pixels[64, 64].tolist() == [10, 200, 30, 255]
    assert not drawn.pixels[drawn.pixels[..., 3] == 0].any()


def test_a_photo_becomes_its_central_square() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    noise[:, 20:80] = (0, 0, 255)
    noise[:30, 20:80] = (0, 99, 255)
    drawn = render(png(Image.fromarray(noise)), "a.png")
    assert not drawn.cutout and (drawn.pixels[..., 3] == 255).all()
    assert (drawn.pixels[5:-5, 5:-5, 2] > 250).all()


def test_a_drawing_on_an_even_ground_is_centred_on_it() -> None:
    image = Image.new("RGB", (300, 200), "white")
    ImageDraw.Draw(image).rectangle((10, 10, 69, 69), fill="red")
    drawn = render(png(image), "a.png")
    assert not drawn.cutout and drawn.pixels[64, 64].tolist() == [255, 0, 0, 255]
    assert drawn.pixels[0, 0].tolist() == [255, 255, 255, 255]


@pytest.mark.parametrize("size", ['viewBox="0 0 100 50"', 'viewBox="0 0 50 100"', 'width="100" height="50"'])
def test_an_svg_is_drawn_whole(size: str) -> None:
    drawn = render(svg(1, size), "a.svg")
    seen = drawn.pixels[..., 3] > 8
    assert drawn.cutout and max(seen.any(0).sum(), seen.any(1).sum()) == 124


@pytest.mark.parametrize(
    ("content", "name"),
    [(b"no picture", "a.png"), (b"<svg", "a.svg"), (png(Image.new("RGBA", (90, 90), (1, 2, 3, 0))), "a.png")],
)
def test_what_shows_nothing_is_refused(content: bytes, name: str) -> None:
    with pytest.raises(UnsuitableImageError):
        render(content, name)


def test_a_recoloured_drawing_is_a_near_duplicate_and_another_is_not() -> None:
    first = render(svg(1), "a.svg").pixels
    lighter = first.copy()
    lighter[..., :3] = lighter[..., :3] // 2 + 60
    lighter[lighter[..., 3] == 0] = 0
    others = [render(svg(seed), "a.svg").pixels for seed in (2, 3)]
    hashes = np.stack([perceptual_hash(pixels) for pixels in (first, lighter, *others)])
    assert clusters(hashes, 56, ["", "", "", ""]).tolist() == [0, 0, 1, 2]
    assert clusters(hashes, 56, ["", "x", "", "x"]).tolist() == [0, 0, 1, 0]


def placed(count: int = 400) -> list[Placed]:
    """Images of 20 concepts in clusters of one to three; one in ten of another style, one in 25 a photo."""
    rng = np.random.default_rng(0)
    roles = ["photos" if i % 25 == 0 else "unseen_style" if i % 10 == 1 else "train" for i in range(count)]
    return [Placed(f"c{rng.integers(20)}", role, int(rng.integers(200)), str(i)) for i, role in enumerate(roles)]


def test_no_cluster_is_in_training_and_in_a_test() -> None:
    images, splits = placed(), Splits(unseen_concepts=3)
    unseen = unseen_concepts(images, {f"c{n}" for n in range(15)}, splits)
    places = split(images, unseen, splits)
    of = {name: {p.cluster for p, place in zip(images, places, strict=True) if place == name} for name in set(places)}
    assert len(unseen) == 3 and unseen <= {f"c{n}" for n in range(15)}
    for name in ("validation", "held_out", "unseen_style", "unseen_concept", "photos"):
        assert of[name] and not of[name] & of["train"], name
    trained = Counter(p.concept for p, place in zip(images, places, strict=True) if place == "train")
    assert not unseen & set(trained) and all(n >= splits.keep for n in trained.values())
    assert all(p.role != "train" or p.concept in unseen for p, x in zip(images, places, strict=True) if x == DROPPED)


def test_more_images_leave_the_draw_as_it_was() -> None:
    images, splits = placed(), Splits(held_out=1.0, validation=0.0, keep=0, unseen_concepts=3)
    more = [*images, Placed("new", "train", 999, "new"), Placed("new", "unseen_style", 998, "newer")]
    known = {f"c{n}" for n in range(20)}
    assert len(unseen_concepts(images, known, splits) & unseen_concepts(more, {*known, "new"}, splits)) >= 2
    assert split(images, set(), splits) == split(more, set(), splits)[:-2]


def written(folder: Path) -> AlbumRecipe:
    """Return a recipe whose packages are already downloaded: two styles, one never trained, and labelled files."""
    icons = {name: {"body": svg(seed).decode()} for seed, name in enumerate(EMOJI.values())}
    names = folder / "npm-names-1.0" / "package"
    names.mkdir(parents=True)
    (names / "icons.json").write_text(json.dumps({"width": 100, "height": 50, "icons": icons}), "utf-8")
    (names / "chars.json").write_text(json.dumps(EMOJI), "utf-8")
    drawn = folder / "npm-drawn-1.0"
    drawn.mkdir()
    for seed, code in enumerate(EMOJI):
        (drawn / f"{code.upper()}-FE0F.svg").write_bytes(svg(seed if code == "1f41c" else 10 + seed))
    labels = folder / "labels.tsv"
    rows = [("package", "file", "concept", "style", "licence", "split")]
    rows += [("npm:drawn@1.0", "photo.png", "bat;bear", "photo", "CC0-1.0", "photos")]
    labels.write_text("\n".join("\t".join(row) for row in rows) + "\n", "utf-8")
    noise = np.random.default_rng(5).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    (drawn / "photo.png").write_bytes(png(Image.fromarray(noise)))
    emoji = (
        EmojiSource("drawn", "npm:drawn@1.0", "{code}.svg", "MIT"),
        EmojiSource("named", "npm:names@1.0", "package/icons.json!/{name}.svg", "MIT", "unseen_style"),
    )
    splits = Splits(unseen_concepts=1)
    return AlbumRecipe(str(folder / "album"), str(folder), "npm:names@1.0", str(labels), splits, emoji)


def test_an_album_is_built_alike_twice_and_read_back(tmp_path: Path) -> None:
    recipe = written(tmp_path)
    summary = build(recipe)
    first = [(tmp_path / "album" / name).read_bytes() for name in ("album.npy", "manifest.jsonl")]
    build(recipe)
    assert first == [(tmp_path / "album" / name).read_bytes() for name in ("album.npy", "manifest.jsonl")]
    pixels = np.load(tmp_path / "album" / "album.npy", mmap_mode="r")
    entries = map(json.loads, (tmp_path / "album" / "manifest.jsonl").read_text(encoding="utf-8").splitlines())
    rows = [Row(**{**entry, "also": tuple(entry["also"])}) for entry in entries]
    assert pixels.shape == (len(rows), 128, 128, 4) and [row.index for row in rows] == list(range(len(rows)))
    assert summary["splits"] == {"train": 3, "unseen_style": 3, "unseen_concept": 1, "photos": 1}
    assert summary["not_drawn"] == {"named: the same picture came before": 1}
    assert {row.concept for row in rows} == set(EMOJI.values())
    assert {(row.split, row.cutout, row.also) for row in rows if row.style == "photo"} == {("photos", False, ("bear",))}


def test_packages_are_named_with_their_versions(tmp_path: Path) -> None:
    assert str(parse_address("npm:@scope/name@1.0")) == "npm:@scope/name@1.0"
    assert parse_address("deb:name=1:2.0-1").version == "1:2.0-1" and parse_address("pypi:name==3").name == "name"
    with pytest.raises(UsageError, match="is not a package address"):
        parse_address("npm:name")
    written(tmp_path)
    with pytest.raises(UsageError, match="has no file package/none"):
        open_package("npm:names@1.0", tmp_path).read("package/none")


def test_code_sequences_are_compared_in_one_spelling() -> None:
    assert plain_code("0023-FE0F-20E3") == "23-20e3" and plain_code("1f468-200d-1f4bb") == "1f468-1f4bb"


def test_a_qt_archive_is_read() -> None:
    name = "a.txt".encode("utf-16-be")
    names = struct.pack(">HI", 5, 0) + name
    data = struct.pack(">I", 4 + len(zlib.compress(b"hello"))) + struct.pack(">I", 5) + zlib.compress(b"hello")
    root = struct.pack(">IHII", 0, 2, 1, 1) + bytes(8)
    leaf = struct.pack(">IHHHI", 0, 1, 0, 0, 0) + bytes(8)
    header = 24
    at = (header, header + 44, header + 44 + len(data))
    archive = b"qres" + struct.pack(">4I", 3, *at) + struct.pack(">I", 0) + root + leaf + data + names
    assert read_rcc(archive) == {"a.txt": b"hello"}
    with pytest.raises(UsageError, match="qres"):
        read_rcc(b"zip")


def test_the_shipped_recipe_reads_and_begins_with_its_command(tmp_path: Path) -> None:
    recipe = read_album_recipe(SHIPPED)
    assert SHIPPED.read_text("utf-8").startswith(
        "# python -m visualglm_lab.album_builder lab/recipes/mini/pictures.toml\n"
    )
    assert [source.source for source in recipe.emoji if source.role == "unseen_style"] == ["noto"]
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('outptu = "x"\n', "utf-8")
    with pytest.raises(UsageError, match="Did you mean output"):
        read_album_recipe(wrong)
