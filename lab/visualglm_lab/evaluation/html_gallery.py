"""Gallery of forty test images with the model's answers.

Right and wrong answers are marked. Run: `python -m visualglm_lab.evaluation.html_gallery --model DIR --album
runs/images -o lab/recipes/mini`. Writes `page.html` (self-contained, with sources and licences), `page.png` (the
same images as a sheet, English only) and `failures.png` (wrong answers only). A fixed seed chooses the images; those
that may not be redistributed are left out.
"""

from __future__ import annotations

import argparse
import html
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from visualglm.conversation import VisualGLM, load
from visualglm.evaluation.answer_matching import is_right
from visualglm.evaluation.batch_answering import AskedQuestion, answer_all, encode
from visualglm.evaluation.encoded_scenes import drawn_scenes
from visualglm.evaluation.scenes.kinds import LANGUAGES, Language
from visualglm.evaluation.scenes.qa_pair import QAPair
from visualglm.evaluation.scenes.questions import exchange_of
from visualglm.evaluation.scenes.render import render_scene
from visualglm.evaluation.scenes.scene import Scene
from visualglm.hub.local_folder import packed_model
from visualglm.reporting.html_page import thumbnail

from ..scenes.cutouts import Album
from .album_images import AlbumImages, Shown
from .naming_eval import WHAT, Named, name_all
from .scene_eval import UNSEEN, pasted_scenes

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
SEED = 20261122
EACH = 10
TITLES = {
    "unseen_style": "Emoji of a style never trained on",
    "held_out": "Held-out pictures of known sources",
    "photos": "Real photographs, sources never trained on",
    "scenes": "Scenes: drawn, and of cut-outs never trained on",
}
ASKED = ("colour", "count", "total", "side", "height", "exists", "category", "where", "name by place", "list")
GOOD, BAD = (46, 125, 50), (198, 40, 40)
SIDE, TEXT, COLUMNS = 112, 60, 10


@dataclass(frozen=True)
class Told:
    """One question in one language, its answer, and whether it is right."""

    question: str
    answer: str
    right: bool


@dataclass(frozen=True)
class Card:
    """One image of the gallery, in both languages; `credit` names source and licence."""

    part: str
    image: Image.Image
    truth: str
    told: dict[Language, Told]
    credit: str


def name_cards(model: VisualGLM, gallery: AlbumImages, split: str, count: int) -> list[Card]:
    """Make cards of single images of a split."""
    rows = [row for row in gallery.never_trained(split) if row.shareable]
    chosen = [rows[i] for i in np.random.default_rng(SEED).permutation(len(rows))[:count]]
    said = name_all(model, chosen, encode(model, gallery.images(chosen))) if chosen else []
    return [_name_card(gallery, n) for n in said]


def _name_card(gallery: AlbumImages, said: Named) -> Card:
    told = {
        language: Told(WHAT[language], said.answers[language], said.row.is_called(said.kinds[language]))
        for language in LANGUAGES
    }
    truth = " / ".join(f"{kind.en[0]} {kind.zh[0]}" for kind in said.row.kinds[:3])
    return Card(said.row.split, gallery.image(said.row), truth, told, credit(said.row))


def credit(row: Shown) -> str:
    return f"{row.source}: {row.file} ({row.licence})"


def scene_cards(model: VisualGLM, gallery: AlbumImages, count: int) -> list[Card]:
    """Make cards of scenes, half drawn and half with cut-outs, each with one question in both languages."""
    half = count // 2
    scenes = drawn_scenes(half) + pasted_scenes(count - half, Album(gallery.folder, UNSEEN))
    asked = [AskedQuestion(i, e) for i, scene in enumerate(scenes) for e in _exchanges(scene, ASKED[i % len(ASKED)])]
    said = answer_all(model, asked, encode(model, (render_scene(scene) for scene in scenes)).embeds)
    cards = []
    for index, scene in enumerate(scenes):
        pair = [a for a in said if a.image == index]
        told = {a.exchange.language: Told(a.exchange.question, a.answer, is_right(a.exchange, a.answer)) for a in pair}
        truth = " ".join(a.exchange.answer for a in pair[::-1])
        cards.append(Card("scenes", render_scene(scene), truth, told, _scene_credit(scene, gallery)))
    return cards


def _exchanges(scene: Scene, task: str) -> list[QAPair]:
    """Ask the same question in both languages; if the scene does not allow the task, ask for the total."""
    made = []
    for tried in (task, "total"):
        rngs = {language: np.random.default_rng((scene.seed, SEED)) for language in LANGUAGES}
        made = [exchange_of(tried, scene, language, rng) for language, rng in rngs.items()]
        if all(made):
            break
    return [exchange for exchange in made if exchange is not None]


def _scene_credit(scene: Scene, gallery: AlbumImages) -> str:
    """Credit every image of a scene with cut-outs; drawn scenes are ours."""
    shown = {item.image for item in scene.items} | {scene.background_image}
    sources = [credit(row) for row in gallery.rows if row.index in shown] if scene.album else []
    return "cut-outs: " + ", ".join(sources) if sources else "drawn by visualglm/scenes"


def page(cards: Sequence[Card], title: str) -> str:
    """Build the page as HTML, images included."""
    parts = []
    for part, heading in TITLES.items():
        these = [card for card in cards if card.part == part]
        if these:
            right = ", ".join(
                f"{language} {sum(card.told[language].right for card in these)} of {len(these)}"
                for language in LANGUAGES
            )
            parts.append(f"<h2>{heading}</h2><p>right: {right}</p><div class=row>{''.join(map(_figure, these))}</div>")
    style = (
        "body{font:14px sans-serif;margin:2em;max-width:1200px}.row{display:flex;flex-wrap:wrap;gap:12px}"
        "figure{margin:0;width:210px;border:1px solid #ccc;padding:6px}img{width:128px;display:block;margin:auto}"
        f".good{{color:rgb{GOOD}}}.bad{{color:rgb{BAD}}}.small{{color:#666;font-size:11px;overflow-wrap:anywhere}}"
    )
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{style}</style>'
    return f"{head}<h1>{title}</h1>{''.join(parts)}</html>\n"


def _figure(card: Card) -> str:
    lines = [thumbnail(card.image, size=128, colours=128)]
    for told in card.told.values():
        mark, css = ("✓", "good") if told.right else ("✗", "bad")
        question, answer = html.escape(told.question), html.escape(told.answer)
        lines.append(f"<div>{question}<br><span class={css}>{mark} {answer}</span></div>")
    lines.append(f"<div class=small>truth: {html.escape(card.truth)}<br>{html.escape(card.credit)}</div>")
    return f"<figure>{''.join(lines)}</figure>"


def sheet(cards: Sequence[Card], columns: int = COLUMNS) -> Image.Image:
    """Draw images in rows, with the English answer below each in green or red."""
    rows = -(-len(cards) // columns)
    canvas = Image.new("RGB", (columns * (SIDE + 8) + 8, rows * (SIDE + TEXT) + 8), "white")
    ink, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=10)
    for index, card in enumerate(cards):
        x, y = 8 + (index % columns) * (SIDE + 8), 8 + index // columns * (SIDE + TEXT)
        told = card.told["en"]
        image = card.image.copy()
        image.thumbnail((SIDE, SIDE))
        canvas.paste(image, (x + (SIDE - image.width) // 2, y + (SIDE - image.height) // 2))
        question = "" if told.question == WHAT["en"] else told.question
        answer = told.answer.encode("ascii", "replace").decode()  # the font that Pillow brings has no Chinese
        lines = _wrapped(question, ink, font, SIDE) + _wrapped(answer, ink, font, SIDE)
        colour = GOOD if told.right else BAD
        ink.rectangle((x - 1, y - 1, x + SIDE, y + SIDE), outline=colour, width=2)
        ink.multiline_text((x, y + SIDE + 2), "\n".join(lines[:4]), fill=colour, font=font, spacing=2)
    return canvas


def _wrapped(text: str, ink: ImageDraw.ImageDraw, font: Font, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if ink.textlength(longer, font) <= width else [*lines, word]
    return [line for line in lines if line]


def failures(cards: Sequence[Card], most: int = 12) -> list[Card]:
    """Choose wrong English answers from all parts in turn; the truth replaces the question."""
    queues = [[card for card in cards if card.part == part and not card.told["en"].right] for part in TITLES]
    mixed = [queue[i] for i in range(most) for queue in queues if i < len(queue)][:most]
    return [replace(card, told={"en": replace(card.told["en"], question=_truth_en(card))}) for card in mixed]


def _truth_en(card: Card) -> str:
    """Return the truth of a single image; for a scene, the question."""
    words = card.truth.encode("ascii", "ignore").decode().split()
    return f"truth: {' '.join(words).strip(' /')}" if card.part != "scenes" else card.told["en"].question


def main(arguments: Sequence[str]) -> None:
    """Write the page, the sheet and the failures."""
    parser = argparse.ArgumentParser(description="Forty test pictures with a model's answers.")
    parser.add_argument("--model", type=Path, default=packed_model(), help="folder of the model; the packed one")
    parser.add_argument("--album", type=Path, required=True, help="folder of album.npy and manifest.jsonl")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of page.html and page.png")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    model, gallery = load(options.model), AlbumImages(options.album)
    cards = [card for split in tuple(TITLES)[:3] for card in name_cards(model, gallery, split, EACH)]
    cards += scene_cards(model, gallery, EACH)
    html_page = page(cards, "visualglm-mini: forty test pictures and its answers")
    (options.output / "page.html").write_text(html_page, encoding="utf-8")
    sheet(cards).save(options.output / "page.png", optimize=True)
    sheet(failures(cards), columns=6).quantize(128).save(options.output / "failures.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
