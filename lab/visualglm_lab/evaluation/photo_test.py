"""The photograph test: its list, its questions, and the figures of a model and of the stem's classifier alone.

Rule of the list: every photograph of every package in `labels.tsv` whose photographs are all labelled, except those of
foolbox, which are ImageNet's; of near-duplicates the first, and none that is a near-duplicate of a trained drawing.
None is chosen by hand. The list, with the accepted names, is `lab/recipes/mini/photo_test.tsv`; 500 questions about 250
of the photographs are in `photo_questions.tsv`. No listed photograph may be trained on. Run:

    python -m visualglm_lab.evaluation.photo_test list --album runs/pictures
    python -m visualglm_lab.evaluation.photo_test measure --album runs/pictures --model visualglm/mini
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image

from visualglm.conversation import VisualGLM, load
from visualglm.evaluation.answer_matching import named_kind
from visualglm.evaluation.batch_answering import AskedQuestion, EncodedImages, answer_all, encode
from visualglm.evaluation.confidence import fraction_of
from visualglm.evaluation.scenes.kinds import LANGUAGES, Kind, Language
from visualglm.evaluation.scenes.qa_pair import QAPair
from visualglm.hub.local_folder import packed_model

from ..training.imagenet_classes import kind_probabilities, named_kinds
from ..training.open_questions import ANSWERS, wordings
from ..training.opinion_answers import LIKELY, SURE
from ..training.stem_features import pooled_features
from ..training.stem_weights import NAME, StemWeights, fetch_stem
from .album_images import EARLIER_TRAINED, AlbumImages, Shown
from .origin import origin

RECIPES = Path(__file__).parents[2] / "recipes" / "mini"
LIST, QUESTIONS, FIGURES = (RECIPES / f"photo_{name}" for name in ("test.tsv", "questions.tsv", "figures.json"))
SOURCES = (
    *("tuxpaint-stamps-default", "gcompris-qt-data", "gnome-control-center-data", "opencv-doc", "tuxpaint-data"),
    *("scikit-image", "darknet", "palapeli-data", "scikit-learn"),
)
FORMS: tuple[tuple[str, dict[Language, str]], ...] = (
    ("name", {"zh": "这是什么？", "en": "What is this?"}),
    ("list", {"zh": "图里有什么？", "en": "What is in the picture?"}),
    ("describe", {"zh": "描述这张图片。", "en": "Describe this picture."}),
    ("category", {"zh": "这是哪一类东西？", "en": "What kind of thing is it?"}),
    ("background", {"zh": "背景是什么？", "en": "What is the background?"}),
)
ASKED_IMAGES = 250
OPEN_IMAGES = 12
CHINESE = re.compile(r"[\u3400-\u9fff]")
LATIN = re.compile(r"[A-Za-z]{3,}")
UNSURE = re.compile("不确定|not sure")
LOOP = re.compile(r"(.{2,}?)\1{3,}")
"""The same characters four times in a row."""


@dataclass(frozen=True)
class Photo:
    """A photograph of the test, its image, and the kinds it may be called."""

    shown: Shown
    image: Image.Image

    @property
    def has_class(self) -> bool:
        """True if ImageNet has a class for one of the accepted kinds."""
        return any(kind in named_kinds() for kind in self.shown.kinds)

    @property
    def is_person(self) -> bool:
        return any(kind.category == "person" for kind in self.shown.kinds)


def photographs(album: AlbumImages) -> list[Photo]:
    """Select the test's photographs from an album by the rule in the module docstring."""
    drawn = {row.cluster for row in album.rows if row.split == "train" and row.style != "photo"}
    kept: dict[int, Shown] = {}
    for row in album.rows:
        if row.style == "photo" and row.source in SOURCES and row.cluster not in drawn:
            kept.setdefault(row.cluster, row)
    return [Photo(row, album.image(row)) for row in kept.values()]


def write_lists(photos: Sequence[Photo], hashes: dict[str, str]) -> None:
    """Write the list with accepted names, and the questions; `hashes` maps files to their SHA-256."""
    rows = [
        (p.shown.source, p.shown.file, hashes[p.shown.file], ";".join(kind.key for kind in p.shown.kinds),
         "yes" if p.has_class else "no", "yes" if p.is_person else "no")
        for p in photos
    ]  # fmt: skip
    _write(LIST, ("source", "file", "sha256", "names", "imagenet_class", "person"), rows)
    _write(QUESTIONS, ("photo", "language", "form", "question"), list(_questions(len(photos))))


def _questions(photos: int) -> Iterator[tuple[str, ...]]:
    """Ask about evenly spaced photographs, in both languages, the five forms in turn."""
    for number, index in enumerate(np.linspace(0, photos - 1, ASKED_IMAGES).round().astype(int).tolist()):
        form, texts = FORMS[number % len(FORMS)]
        for language in LANGUAGES:
            yield str(index), language, form, texts[language]


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = ["\t".join(row) for row in (header, *rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_list(path: Path) -> list[dict[str, str]]:
    """Read one of the two lists."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def measure(model: VisualGLM, photos: Sequence[Photo], stem: StemWeights | None) -> dict[str, Any]:
    """Measure names in both languages with controls, the 500 answers, open questions, and the classifier alone."""
    seen = encode(model, (photo.image for photo in photos))
    figures: dict[str, Any] = {}
    for language in LANGUAGES:
        told = _told(model, photos, seen, language, 0)
        kinds = [named_kind(answer, language) for answer in told]
        unsure = [bool(UNSURE.search(answer)) for answer in told]
        guessed = [doubt and kind is not None for doubt, kind in zip(unsure, kinds, strict=True)]
        entry = _names_and_doubts(photos, kinds, [not doubt for doubt in unsure], guessed)
        others = _told(model, photos, seen, language, len(photos) // 2)
        entry["other picture shown"] = fraction_of(_right(photos, [named_kind(a, language) for a in others]))
        figures[f"names, {language}"] = entry
    figures["commonest name"] = _commonest(photos)
    figures["500 answers"] = _answers(model, photos, seen)
    figures["open questions"] = _open_answers(model, seen)
    if stem is not None:
        figures["classifier alone"] = classifier_figures(photos, stem)
    return figures


def _told(model: VisualGLM, photos: Sequence[Photo], seen: EncodedImages, language: Language, shift: int) -> list[str]:
    """Ask what each photograph shows."""
    question = FORMS[0][1][language]
    asked = [AskedQuestion(i, QAPair("name", language, question, "", "")) for i in range(len(photos))]
    return [told.answer for told in answer_all(model, asked, seen.embeds, shift)]


def _right(photos: Sequence[Photo], kinds: Sequence[Kind | None]) -> list[bool]:
    return [photo.shown.is_called(kind) for photo, kind in zip(photos, kinds, strict=True)]


def _names_and_doubts(
    photos: Sequence[Photo], kinds: Sequence[Kind | None], given: Sequence[bool], guessed: Sequence[bool]
) -> dict[str, Any]:
    """Shares of right names by group, of answers that give a name without doubt, or as a guess, and of right ones among
    those."""
    right = _right(photos, kinds)
    near = [photo.shown.is_near(kind) for photo, kind in zip(photos, kinds, strict=True)]
    never = [photo.shown.source not in EARLIER_TRAINED for photo in photos]
    entry = _by_group(photos, right)
    for name, inside in (("", [True] * len(photos)), (", never trained", never)):
        for way, chosen in (("given", given), ("guessed", guessed)):
            entry[f"{way}{name}"] = fraction_of(_where(chosen, inside))
            kept = [one and flag for one, flag in zip(chosen, inside, strict=True)]
            entry[f"right of those {way}{name}"] = fraction_of(_where(right, kept))
            entry[f"right or near of those {way}{name}"] = fraction_of(_where(near, kept))
    return entry


def _where(values: Sequence[bool], kept: Sequence[bool]) -> list[bool]:
    return [value for value, flag in zip(values, kept, strict=True) if flag]


def _by_group(photos: Sequence[Photo], right: Sequence[bool]) -> dict[str, Any]:
    """Shares of all, of sources that no weights were trained on, and with and without a class of ImageNet."""
    never = [photo.shown.source not in EARLIER_TRAINED for photo in photos]
    has_class = [photo.has_class for photo in photos]
    groups = {
        "all": [True] * len(photos),
        "never trained": never,
        "trained by version 3": [not flag for flag in never],
        "with a class": has_class,
        "without a class": [not flag for flag in has_class],
    }
    return {
        name: fraction_of([hit for hit, inside in zip(right, flags, strict=True) if inside])
        for name, flags in groups.items()
    }


def _commonest(photos: Sequence[Photo]) -> dict[str, Any]:
    counts: dict[Kind, int] = {}
    for photo in photos:
        for kind in photo.shown.kinds:
            counts[kind] = counts.get(kind, 0) + 1
    best = max(counts, key=lambda kind: counts[kind])
    return {"name": best.key, **fraction_of([best in photo.shown.kinds for photo in photos])}


def _answers(model: VisualGLM, photos: Sequence[Photo], seen: EncodedImages) -> dict[str, Any]:
    """Count faults of form among the listed questions' answers: foreign words, loops, persons named as animals."""
    rows = read_list(QUESTIONS)
    asked = [
        AskedQuestion(int(row["photo"]), QAPair(row["form"], _language(row["language"]), row["question"], "", ""))
        for row in rows
    ]
    told = answer_all(model, asked, seen.embeds)
    faults = [fault_of_form(a.answer, a.exchange.language) for a in told]
    people = [a for a in told if photos[a.image].is_person]
    named = [named_kind(a.answer, a.exchange.language) for a in people]
    animals = [kind for kind in named if kind is not None and kind.category == "animal"]
    examples = [f"{a.exchange.question} {a.answer}" for a, fault in zip(told, faults, strict=True) if fault][:10]
    return {
        "n": len(told),
        "foreign words": faults.count("foreign words"),
        "loops": faults.count("loop"),
        "persons": len(people),
        "persons named as animals": len(animals),
        "examples": examples,
    }


def _language(text: str) -> Language:
    return next(language for language in get_args(Language) if language == text)


def fault_of_form(answer: str, language: Language) -> str:
    """Return `foreign words`, `loop` or an empty text."""
    if (CHINESE if language == "en" else LATIN).search(answer):
        return "foreign words"
    return "loop" if LOOP.search(answer) else ""


def _open_answers(model: VisualGLM, seen: EncodedImages) -> dict[str, Any]:
    """Count, by group, the honest answers to wordings that are never trained on, about evenly spaced photographs."""
    images = np.linspace(0, len(seen.embeds) - 1, OPEN_IMAGES).round().astype(int).tolist()
    figures = {}
    for group, honest in ANSWERS.items():
        asked = [
            AskedQuestion(index, QAPair(group, language, question, honest[language], ""))
            for language in LANGUAGES
            for question in wordings(group, language, "test")
            for index in images
        ]
        told = answer_all(model, asked, seen.embeds)
        figures[group] = fraction_of([one.answer == one.exchange.answer for one in told])
    return figures


@torch.no_grad()
def classifier_figures(photos: Sequence[Photo], stem: StemWeights) -> dict[str, Any]:
    """Name the photographs by the classifier's most likely kind, at the model's image size."""
    pooled = pooled_features([photo.image for photo in photos], stem)
    chance, best = kind_probabilities((pooled @ stem.classes.T + stem.bias).softmax(-1)).max(-1)
    kinds = [named_kinds()[index] for index in best.tolist()]
    chances = chance.tolist()
    return _names_and_doubts(photos, kinds, [c >= SURE for c in chances], [LIKELY <= c < SURE for c in chances])


def main() -> None:
    """Write the lists, or measure a model on them."""
    parser = argparse.ArgumentParser(prog="python -m visualglm_lab.evaluation.photo_test")
    parser.add_argument("job", choices=("list", "measure"))
    parser.add_argument("--album", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=packed_model())
    parser.add_argument("--downloads", type=Path, default=Path("runs/downloads"))
    parser.add_argument("-o", "--output", type=Path, default=FIGURES)
    options = parser.parse_args()
    album = AlbumImages(options.album)
    photos = photographs(album)
    if options.job == "list":
        lines = (options.album / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
        write_lists(photos, {row["file"]: row["sha256"] for row in map(json.loads, lines)})
        return
    figures = measure(load(options.model, device="cpu"), photos, fetch_stem(options.downloads))
    described = {**origin(options.model, options.album), "classifier": NAME, "photographs": len(photos), **figures}
    options.output.write_text(json.dumps(described, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
