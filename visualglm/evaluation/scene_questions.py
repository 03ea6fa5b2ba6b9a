"""Questions of the `scenes` task: drawn images with exact truth, asked in Chinese and English.

presence      an object that is there; one that is not; one whose kind and colour are both there, on different objects
binding       two images that differ in one swap of colours: "what colour is the star?" counts if both are right
counting, position, size, text    one question per scene
wordings      the same question in other words: the answers should state the same fact
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from .readers.drawn import FIRST_SEED, evaluation_scenes
from .scenes import answers
from .scenes.concepts import overlap
from .scenes.kinds import COLOURS, KINDS, LANGUAGES, Colour, Language
from .scenes.qa_pair import QAPair, pick, single
from .scenes.question_templates import QUESTIONS
from .scenes.questions import exchange_of
from .scenes.scene import Scene, SceneItem, SceneMix, scene_of
from .scenes.split_seeds import Split, seeds

LETTERS_ONLY = SceneMix(letters=1.0)
WORDINGS = 3
PAIR_SEEDS, LETTER_SEEDS = 500_000, 600_000
"""Seeds of the pairs and of the letters, counted from the task's first one."""


@dataclass(frozen=True)
class SceneQuestion:
    """A question about a scene. `unit` names what counts together: both images of a pair, all wordings."""

    test: str
    unit: str
    scene: Scene
    exchange: QAPair
    kind: str = ""

    @property
    def id(self) -> str:
        return f"{self.test}/{self.unit}/{self.kind or 'one'}/{self.exchange.language}"


def scene_questions(count: int) -> list[SceneQuestion]:
    """Make the questions of `count` scenes, and of half as many colour-swap pairs and letters."""
    scenes = evaluation_scenes("scenes", count, most=5)
    makers = (_presence, _counting, _position, _size, _wordings)
    found = [question for make in makers for scene in scenes for question in make(scene)]
    return [*found, *_binding(-(-count // 2)), *_text(-(-count // 2))]


def _presence(scene: Scene) -> Iterator[SceneQuestion]:
    rng = np.random.default_rng((scene.seed, 1))
    shown = pick(rng, scene.items)
    absent = pick(rng, [kind for kind in KINDS if not any(overlap(kind, other) for other in scene.kinds)])
    pairs = {(item.kind, item.colour) for item in scene.items}
    swapped = [
        (one.kind, other.colour)
        for one in scene.items
        for other in scene.items
        if not any(overlap(one.kind, kind) and other.colour == colour for kind, colour in pairs)
    ]
    cases = [("present", shown.kind, shown.colour), ("absent", absent, shown.colour)]
    cases += [("adversarial", *pick(rng, swapped))] if swapped else []
    wording = int(rng.integers(1000))
    for case, kind, colour in cases:
        for language in LANGUAGES:
            templates = QUESTIONS["exists"][language]
            name = (kind.zh if language == "zh" else kind.en)[0]
            asked = templates[wording % len(templates)].format(x=answers.some(name, kind, colour, language))
            truth = "yes" if case == "present" else "no"
            exchange = QAPair("exists", language, asked, "", truth)
            yield SceneQuestion("presence", str(scene.seed), scene, exchange, case)


def _plain(scene: Scene, test: str, kind: str, number: int) -> Iterator[SceneQuestion]:
    """Ask one question in both languages; none if the scene does not allow it."""
    made = [exchange_of(kind, scene, language, np.random.default_rng((scene.seed, number))) for language in LANGUAGES]
    exchanges = [exchange for exchange in made if exchange is not None and exchange.task != "absent"]
    if len(exchanges) == len(LANGUAGES):
        for exchange in exchanges:
            yield SceneQuestion(test, str(scene.seed), scene, exchange, kind)


def _counting(scene: Scene) -> Iterator[SceneQuestion]:
    return _plain(scene, "counting", "count", 2)


def _position(scene: Scene) -> Iterator[SceneQuestion]:
    for number, kind in enumerate(("side", "height", "where"), 3):
        yield from _plain(scene, "position", kind, number)


def _size(scene: Scene) -> Iterator[SceneQuestion]:
    return _plain(scene, "size", "size", 6)


def _coloured(scene: Scene) -> list[tuple[SceneItem, Colour]]:
    """List the objects of one colour that a name identifies."""
    return [(item, item.colour) for item in single(scene) if item.colour is not None]


def colour_question(item: SceneItem, colour: Colour, language: Language, wording: int) -> QAPair:
    """Ask for an object's colour in one of the wordings."""
    templates = [text for text in QUESTIONS["colour"][language] if "{x}" in text]
    name = answers.noun(item.kind, language)
    asked = templates[wording % len(templates)].format(x=name)
    return QAPair("colour", language, asked, "", answers.hue(colour, language))


def _wordings(scene: Scene) -> Iterator[SceneQuestion]:
    coloured = _coloured(scene)
    if not coloured:
        return
    rng = np.random.default_rng((scene.seed, 7))
    item, colour = pick(rng, coloured)
    first = int(rng.integers(1000))
    for language in LANGUAGES:
        for number in range(WORDINGS):
            exchange = colour_question(item, colour, language, first + number)
            yield SceneQuestion("wordings", str(scene.seed), scene, exchange, str(number))


def swap_pairs(count: int) -> Iterator[tuple[Scene, Scene]]:
    """Draw pairs of scenes with two objects each, equal but for the colours, which are exchanged."""
    numbers = seeds(Split.EVALUATION, FIRST_SEED["scenes"] + PAIR_SEEDS)
    scenes = (scene_of(seed, most=2, least=2) for seed in numbers)
    pairs = (
        (scene, _swapped(scene))
        for scene in scenes
        if len(scene.items) == 2 and len(single(scene)) == 2 and scene.items[0].colour != scene.items[1].colour
    )
    return islice(pairs, count)


def _swapped(scene: Scene) -> Scene:
    first, second = scene.items
    items = tuple(
        replace(one, colour=other.colour, tone=other.tone, outline=other.outline)
        for one, other in ((first, second), (second, first))
    )
    return replace(scene, items=items)


def _binding(count: int) -> Iterator[SceneQuestion]:
    for original, swapped in swap_pairs(count):
        for language in LANGUAGES:
            for kind, scene in (("original", original), ("swapped", swapped)):
                item, colour = _coloured(scene)[original.seed % 2]
                exchange = colour_question(item, colour, language, original.seed)
                yield SceneQuestion("binding", str(original.seed), scene, exchange, kind)


def _text(count: int) -> Iterator[SceneQuestion]:
    numbers = islice(seeds(Split.EVALUATION, FIRST_SEED["scenes"] + LETTER_SEEDS), count)
    for scene in (scene_of(seed, most=1, mix=LETTERS_ONLY) for seed in numbers):
        yield from _plain(scene, "text", "name", 8)


def wrong_colour(exchange: QAPair, seed: int) -> str:
    """Return a colour that is not the truth, for a false claim."""
    hues = [answers.hue(colour, exchange.language) for colour in COLOURS]
    return pick(np.random.default_rng((seed, 9)), [hue for hue in hues if hue != exchange.truth])
