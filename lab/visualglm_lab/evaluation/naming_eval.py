"""Evaluate naming of single images that the model has never seen.

Splits: held-out images of known sources, an untrained emoji style, untrained concepts, real photographs from
untrained sources. Controls: the commonest name, another image shown, and the nearest neighbour by the model's own
features. The threshold below which an answer is withheld (`not sure`) is chosen on validation images only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from visualglm.conversation import VisualGLM
from visualglm.evaluation.answer_matching import named_kind, stated_fact
from visualglm.evaluation.batch_answering import AskedQuestion, EncodedImages, answer_all, encode
from visualglm.evaluation.confidence import fraction_of
from visualglm.evaluation.scenes import answers
from visualglm.evaluation.scenes.kinds import LANGUAGES, Kind, Language
from visualglm.evaluation.scenes.qa_pair import QAPair

from .album_images import AlbumImages, Shown
from .nearest_neighbour import NeighbourIndex, best_index

SPLITS = ("validation", "held_out", "unseen_style", "unseen_concept", "photos")
WHAT: dict[Language, str] = {"zh": "这是什么？", "en": "What is this?"}
WHICH: dict[Language, str] = {"zh": "这是哪一类东西？", "en": "What kind of thing is it?"}
SURE = 0.95  # an answer is given where validation answers no less likely are right this often
WANTED = (0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Named:
    """One image, the answers to 'what is this?', their probabilities, and the kinds that they name."""

    row: Shown
    answers: dict[Language, str]
    chances: dict[Language, float]
    kinds: dict[Language, Kind | None]


@dataclass(frozen=True)
class Shelf:
    """A split: its images, the model's features of them, and its answers."""

    rows: list[Shown]
    seen: EncodedImages
    said: list[Named]


def evaluate_names(
    model: VisualGLM, gallery: AlbumImages, most: int | None = None
) -> tuple[dict[str, Any], dict[str, list[Named]]]:
    """Compute the results of every split; also return the answers."""
    train = gallery.of("train", most and 20 * most)
    shelves = {split: _shelf(model, gallery, gallery.never_trained(split, most)) for split in SPLITS}
    shelves = {split: shelf for split, shelf in shelves.items() if shelf.rows}
    validation = shelves["validation"]
    remembered, tried = best_index(encode(model, gallery.images(train)), train, validation.seen, validation.rows)
    table: dict[str, Any] = {"vectors": {"chosen": remembered.feature, "validation": tried}, "training": len(train)}
    for split, shelf in shelves.items():
        table[split] = _figures(model, shelf, remembered)
    said = {split: shelf.said for split, shelf in shelves.items()}
    if "unseen_concept" in shelves:
        table["unseen_concept"] |= _categories(model, shelves["unseen_concept"], remembered)
    return {**table, "not sure": not_sure(said)}, said


def _shelf(model: VisualGLM, gallery: AlbumImages, rows: list[Shown]) -> Shelf:
    if not rows:
        return Shelf([], None, [])  # type: ignore[arg-type]
    seen = encode(model, gallery.images(rows))
    return Shelf(rows, seen, name_all(model, rows, seen))


def name_all(model: VisualGLM, rows: Sequence[Shown], seen: EncodedImages, shift: int = 0) -> list[Named]:
    """Ask the model to name every image, in both languages."""
    answers = {}
    for language in LANGUAGES:
        asked = [AskedQuestion(i, QAPair("name", language, WHAT[language], "", "")) for i in range(len(rows))]
        answers[language] = answer_all(model, asked, seen.embeds, shift, with_probability=not shift)
    return [
        Named(
            row,
            {language: answers[language][i].answer for language in LANGUAGES},
            {language: answers[language][i].probability for language in LANGUAGES},
            {language: named_kind(answers[language][i].answer, language) for language in LANGUAGES},
        )
        for i, row in enumerate(rows)
    ]


def _figures(model: VisualGLM, shelf: Shelf, remembered: NeighbourIndex) -> dict[str, Any]:
    """Compute the fraction of right names in both languages, with the controls."""
    rows, said = shelf.rows, shelf.said
    other = name_all(model, rows, shelf.seen, shift=max(1, len(rows) // 2))
    commonest = Counter(kind for row in rows for kind in row.kinds).most_common(1)[0][1] / len(rows)
    table: dict[str, Any] = {"concepts": len({row.kinds[0] for row in rows})}
    for language in LANGUAGES:
        entry: dict[str, Any] = fraction_of([n.row.is_called(n.kinds[language]) for n in said])
        entry["near"] = fraction_of([n.row.is_near(n.kinds[language]) for n in said])["share"]
        entry["category"] = fraction_of([n.row.is_akin(n.kinds[language]) for n in said])["share"]
        entry["styles"] = _by_style(said, language)
        entry["majority"] = round(commonest, 4)
        entry["shuffled"] = fraction_of([n.row.is_called(n.kinds[language]) for n in other])
        table[language] = entry
    controls = {"nearest": remembered.nearest(shelf.seen), "centroid": remembered.nearest_mean(shelf.seen)}
    for control, kinds in controls.items():
        table[control] = fraction_of([row.is_called(k) for row, k in zip(rows, kinds, strict=True)])
    table["zh = en"] = fraction_of([n.kinds["zh"] is not None and n.kinds["zh"] == n.kinds["en"] for n in said])
    return table


def _by_style(said: Sequence[Named], language: Language) -> dict[str, Any]:
    """Compute the fraction of right names of emoji, drawings and photographs."""
    hits = [(n.row.style, n.row.is_called(n.kinds[language])) for n in said]
    return {style: fraction_of([hit for s, hit in hits if s == style]) for style in dict.fromkeys(s for s, _ in hits)}


def _categories(model: VisualGLM, shelf: Shelf, remembered: NeighbourIndex) -> dict[str, Any]:
    """For untrained concepts, evaluate the category, that of the nearest neighbour, and collect the names given."""
    rows = shelf.rows
    table: dict[str, Any] = {"asked category": {}, "called": _called(shelf.said)}
    for language in LANGUAGES:
        asked = [AskedQuestion(i, QAPair("category", language, WHICH[language], "", "")) for i in range(len(rows))]
        told = [stated_fact("category", language, a.answer) for a in answer_all(model, asked, shelf.seen.embeds)]
        truths = [[answers.category(kind.category, language) for kind in row.kinds] for row in rows]
        entry: dict[str, Any] = fraction_of([fact in truth for fact, truth in zip(told, truths, strict=True)])
        entry["majority"] = round(Counter(t[0] for t in truths).most_common(1)[0][1] / len(rows), 4)
        table["asked category"][language] = entry
    akin = [row.is_akin(kind) for row, kind in zip(rows, remembered.nearest(shelf.seen), strict=True)]
    return {**table, "nearest category": fraction_of(akin)}


def _called(said: Sequence[Named]) -> dict[str, dict[str, int]]:
    """Map each concept to the English names that it was given, the commonest first."""
    names: dict[str, Counter[str]] = {}
    for n in said:
        kind = n.kinds["en"]
        names.setdefault(n.row.kinds[0].key, Counter())[kind.key if kind else "?"] += 1
    return {key: dict(counter.most_common(4)) for key, counter in names.items()}


def not_sure(said: dict[str, list[Named]]) -> dict[str, Any]:
    """Report accuracy and coverage when answers below a probability threshold are withheld.

    This is an evaluation only: conversations always answer. The threshold is chosen on the validation images, for
    several target accuracies; `SURE` is the one that is reported.
    """
    table: dict[str, Any] = {"wanted": SURE, "at": {}}
    for wanted in WANTED:
        entry = {}
        for language in LANGUAGES:
            chance = threshold(said["validation"], language, wanted)
            given = {split: given_at(rows, language, chance) for split, rows in said.items()}
            entry[language] = {"chance": round(chance, 5), **given}
        table["at"][f"{wanted:.2f}"] = entry
    return table


def threshold(said: Sequence[Named], language: Language, wanted: float) -> float:
    """Return the smallest probability above which the fraction `wanted` of answers is right; 1 if there is none."""
    ranked = sorted(said, key=lambda n: -n.chances[language])
    right, best = 0, 1.0
    for count, n in enumerate(ranked, start=1):
        right += n.row.is_called(n.kinds[language])
        if right >= wanted * count:
            best = n.chances[language]
    return best


def given_at(said: Sequence[Named], language: Language, chance: float) -> dict[str, Any]:
    """Evaluate the answers above a threshold: count, fraction right, interval, and coverage."""
    given = [n for n in said if n.chances[language] >= chance]
    entry = fraction_of([n.row.is_called(n.kinds[language]) for n in given])
    return {**entry, "coverage": round(len(given) / len(said), 4) if said else 0.0}


def wrong_names(said: Sequence[Named], most: int = 12) -> list[dict[str, Any]]:
    """Choose some wrong answers, evenly spaced."""
    bad = [n for n in said if not all(n.row.is_called(n.kinds[language]) for language in LANGUAGES)]
    step = max(1, len(bad) // most)
    return [
        {
            "file": f"{n.row.source}: {n.row.file}",
            "truth": [kind.key for kind in n.row.kinds],
            "zh": n.answers["zh"],
            "en": n.answers["en"],
        }
        for n in bad[::step][:most]
    ]
