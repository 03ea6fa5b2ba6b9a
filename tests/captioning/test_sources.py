"""Sources: folders, globs, lists and tar shards name the same images, in a fixed order."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

import visualglm
from visualglm.captioning.local_engine import check_sidecars
from visualglm.captioning.sources import read_source
from visualglm.errors import ImageError, UsageError

SAMPLES = sorted((visualglm.packed_model() / "samples").glob("*.png"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    (root / "deep" / "er").mkdir(parents=True)
    (root / ".hidden").mkdir()
    shutil.copy(SAMPLES[0], root / "b.png")
    shutil.copy(SAMPLES[1], root / "deep" / "er" / "A.PNG")
    shutil.copy(SAMPLES[2], root / ".hidden" / "c.png")
    (root / "notes.txt").write_text("no picture")
    return root


def names(source: object) -> list[str]:
    return [item.image for item in read_source(str(source))]


def test_a_folder_is_read_deeply_and_hidden_things_are_not(folder: Path) -> None:
    assert names(folder) == ["b.png", "deep/er/A.PNG"]


def test_a_glob_names_images_from_its_last_fixed_folder(folder: Path) -> None:
    assert names(folder / "**" / "*.png") == [".hidden/c.png", "b.png"]
    assert names(folder / "deep" / "*" / "*.PNG") == ["er/A.PNG"]


def test_a_tar_is_read_in_place(folder: Path, tmp_path: Path) -> None:
    shard = tmp_path / "shards" / "one.tar"
    shard.parent.mkdir()
    with tarfile.open(shard, "w") as tar:
        tar.add(folder / "b.png", "x/b.png")
        tar.add(folder / "notes.txt", "x/notes.txt")
    (item,) = read_source(str(shard))
    assert (item.image, item.read()) == ("x/b.png", (folder / "b.png").read_bytes())
    assert names(shard.parent) == ["one.tar/x/b.png"]


def test_members_of_one_name_are_told_apart_by_their_order(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for number, name in enumerate(("a.png", "a.png", "a.png#2.png", "b.png", "a.png", "a.png#2.png")):
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"%d" % number))
    items = read_source(str(tmp_path / "x.tar"))
    assert [item.image for item in items] == [*("a.png", "a.png#2", "a.png#2.png", "b.png", "a.png#3", "a.png#2.png#2")]
    assert [item.read() for item in items] == [b"%d" % number for number in range(6)]


@pytest.mark.parametrize("name", ["a\0.png", "\ud800.png"])
def test_a_name_that_no_file_can_bear_is_an_error_of_reading(tmp_path: Path, name: str) -> None:
    (tmp_path / "list.jsonl").write_text(json.dumps({"image": name}))
    (item,) = read_source(str(tmp_path / "list.jsonl"))
    with pytest.raises(OSError, match="not a valid file name"):
        item.read()


def test_lists_bring_questions_and_double_lines_count_once(folder: Path) -> None:
    lines = ['{"image": "b.png"}', '{"path": "b.png", "question": "What?"}', "", '{"image": "b.png"}']
    (folder / "list.jsonl").write_text("\n".join(lines))
    items = read_source(str(folder / "list.jsonl"))
    assert [(item.image, item.question) for item in items] == [("b.png", None), ("b.png", "What?")]
    (folder / "list.csv").write_text("path,question\nb.png,\nb.png,What?\n", encoding="utf-8-sig")
    assert read_source(str(folder / "list.csv")) == items
    assert items[0].read() == (folder / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("none", None),
        ("empty.jsonl", ""),
        ("broken.jsonl", '{"image": "a.png"}\n{"ima'),
        ("other.jsonl", '{"picture": "a.png"}'),
        ("other.csv", "a,b\n1,2\n"),
        ("latin.jsonl", b'{"image": "\xe9.png"}'),
        ("no.tar", "this is no tar"),
    ],
)
def test_what_is_no_source_is_said_in_one_sentence(tmp_path: Path, name: str, content: str | bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UsageError, match=name):
        read_source(str(tmp_path / name))


def test_every_suffix_of_an_image_is_an_item(tmp_path: Path) -> None:
    """Also of one that cannot be decoded, which becomes a row with an error."""
    for suffix in (".heic", ".MPO", ".jpg", ".jpx", ".pgm", ".svg", ".CR2", ".txt", ".tar.gz", ""):
        (tmp_path / f"a{suffix}").touch()
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    expected = {"a.heic", "a.MPO", "a.jpg", "a.jpx", "a.pgm", "a.svg", "a.CR2", "gone.png"}
    assert set(names(tmp_path)) == expected == set(names(tmp_path / "*"))
    items = read_source(str(tmp_path))
    assert {item.image for item in items if item.fault} == {"a.svg", "a.CR2"}
    with pytest.raises(ImageError, match="not decoded"):
        next(item for item in items if item.fault).read()


def test_a_link_inside_a_tar_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE), ("c.txt", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "z.png"
            tar.addfile(member)
    items = read_source(str(tmp_path / "x.tar"))
    assert [item.image for item in items] == ["a.png", "b.png"]
    for item in items:
        with pytest.raises(ImageError, match=r"link .* inside a tar"):
            item.read()


def test_paths_in_lists_are_resolved_and_faults_keep_their_row(folder: Path, tmp_path: Path) -> None:
    (folder / "link.png").symlink_to("nowhere.png")
    sources = {
        "deep\\er\\A.PNG": None,
        (folder / "b.png").as_uri(): None,
        "https://example.com/a.png": "is a URL",
        "link.png": "broken link",
        "nowhere.png": r"nowhere\.png is missing; check the path\.",
        "x" * 300 + ".png": "cannot be read",
        "data:image/png;base64,AAAA": "not a path",
    }
    (folder / "list.json").write_text(json.dumps({"data": [{"file_name": source} for source in sources]}))
    items = read_source(str(folder / "list.json"))
    assert [item.image for item in items] == list(sources)
    for item, said in zip(items, sources.values(), strict=True):
        if said is None:
            assert item.read()
        else:
            with pytest.raises((OSError, ImageError), match=said) as raised:
                item.read()
            assert "Errno" not in str(raised.value) and str(raised.value).startswith("The image ")


@pytest.mark.parametrize("encoding, name", [("gbk", "GBK"), ("utf-16", "UTF-16")])
def test_lists_in_another_encoding_are_named(tmp_path: Path, encoding: str, name: str) -> None:
    (tmp_path / "a.csv").write_bytes("image,question\na.png,图里有什么\n".encode(encoding))
    with pytest.raises(UsageError, match=rf"probably {name}\. .*iconv"):
        read_source(str(tmp_path / "a.csv"))


def test_lists_as_other_tools_write_them(folder: Path) -> None:
    lists = {
        "a.tsv": "File_Name\tText\nb.png\tA cat\n",
        "b.csv": "Image;Question\nb.png;\n",
        "c.jsonl": '[{"images": ["b.png"], "query": ""}]',
        "d.json": '[{"image": {"path": "b.png", "bytes": null}}]',
    }
    for name, content in lists.items():
        (folder / name).write_text(content)
        assert [(item.image, item.question, len(item.read()) > 0) for item in read_source(str(folder / name))] == [
            ("b.png", None, True)
        ]


def test_a_source_may_be_a_file_url_or_begin_with_a_tilde(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    for source in (folder.as_uri(), "~/images", "~/images/**/*.[pP]*"):
        assert "b.png" in names(source)
    with pytest.raises(UsageError, match="is a URL, and images are not fetched"):
        read_source("https://example.com/images")


def test_images_that_get_no_text_share_a_sidecar_with_nobody(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.cr2", "a.svg"):
        (tmp_path / name).touch()
    check_sidecars(read_source(str(tmp_path)))
    (tmp_path / "list.jsonl").write_text('{"image": "https://a/b.png"}\n{"image": "https://a/c.png"}')
    check_sidecars(read_source(str(tmp_path / "list.jsonl")))
