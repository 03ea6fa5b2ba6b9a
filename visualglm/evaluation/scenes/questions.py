"""Generate questions about a scene, with true answers.

In: a scene, a language, a random generator. Out: `QAPair`s. Every task has many wordings of the question and one of the
answer, so that a greedy answer is either right or wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from numpy.random import Generator

from . import answers, comparison_questions
from .concepts import LETTER, kinds, overlap
from .kinds import BACKGROUNDS, CATEGORIES, COLOURS, LANGUAGES, ZONES, Colour, Kind, Language
from .qa_pair import QAPair, absent, ask, name, pick, single
from .question_templates import ABOUT_TEXT, GREETED, GREETINGS, NO_IMAGE, NOT_SHOWN, OFF_TOPIC
from .scene import Scene, SceneItem

Maker = Callable[[Scene, Language, Generator], "QAPair | None"]


def exchanges(scene: Scene, language: Language, rng: Generator, tasks: tuple[str, ...] | None = None) -> list[QAPair]:
    """Generate one question for each task that the scene allows (a colour question needs an unambiguous object)."""
    pairs = (_MAKERS[task](scene, language, rng) for task in tasks or tuple(_MAKERS))
    return [pair for pair in pairs if pair is not None]


def exchange_of(task: str, scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    """Generate a question of one task, or None if the scene does not allow it."""
    return _MAKERS[task](scene, language, rng)


def after_other_turns(exchange: QAPair, scene: Scene, rng: Generator) -> QAPair:
    """Put one or two turns about other things in the image before the question."""
    tasks = rng.choice([task for task in TASKS if task != "follow-up"], size=int(rng.integers(1, 3)), replace=False)
    turns = (_MAKERS[str(task)](scene, exchange.language, rng) for task in tasks)
    return replace(exchange, history=tuple((turn.question, turn.answer) for turn in turns if turn is not None))


def without_image(language: Language, rng: Generator) -> QAPair:
    """Generate a greeting, or a question about an image that is not there."""
    if rng.random() < 0.5:
        return QAPair("greeting", language, pick(rng, GREETINGS[language]), GREETED[language], "", (), False)
    task = pick(rng, ("describe", "list", "name", "total", "background"))
    return QAPair("no picture", language, ask(rng, task, language), NO_IMAGE[language], "", (), False)


def _describe(scene: Scene, language: Language, rng: Generator) -> QAPair:
    answer = answers.description(scene, language)
    return QAPair("describe", language, ask(rng, "describe", language), answer, answer)


def _list(scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    if scene.frames:
        return None
    answer = answers.inventory(list(scene.items), language)
    return QAPair("list", language, ask(rng, "list", language), answer, answer)


def _name_it(scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    question = ask(rng, "name", language)
    if scene.frames:
        return None
    if len(scene.items) > 1:
        answer = answers.inventory(list(scene.items), language)
        return QAPair("list", language, question, answer, answer)
    item = scene.items[0]
    return QAPair("name", language, question, answers.this_is(item, language), answers.noun(item.kind, language))


def _name_by_colour(scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    colours = [item.colour for item in scene.items] + [frame.colour for frame in scene.frames]
    alone = [(item, item.colour) for item in scene.items if item.colour and colours.count(item.colour) == 1]
    if not alone:
        return None
    item, colour = pick(rng, alone)
    question = ask(rng, "name by colour", language, x=answers.hue(colour, language))
    return QAPair("name", language, question, answers.this_is(item, language), answers.noun(item.kind, language))


def _name_by_place(scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    unframed = [item for item in scene.items if item.frame is None]
    if not unframed:
        return None
    item = pick(rng, unframed)
    question = ask(rng, "name by place", language, x=answers.place(item.zone, language))
    return QAPair("name", language, question, answers.this_is(item, language), answers.noun(item.kind, language))


def _shapes(scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    if scene.frames or not all(item.drawn for item in scene.items):
        return None
    shown = [item for item in scene.items if item.kind.category == "shape"]
    answer = answers.inventory(shown, language) if shown else answers.no_shapes(language)
    return QAPair("shapes", language, ask(rng, "shapes", language), answer, answer)


def _colour(scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    """Ask for the colour of an object; in one of twelve cases, of an object that is not there."""
    if rng.random() < 0.08:
        kind = absent(scene, rng, pick(rng, scene.items).kind)
        question = ask(rng, "colour", language, x=name(rng, kind, language))
        answer = answers.there_is_none(answers.counted(0, kind, None, language), language)
        return QAPair("absent", language, question, answer, "")
    alone = [(item, item.colour) for item in single(scene) if item.colour]
    if not alone:
        return None
    item, colour = pick(rng, alone)
    question = ask(rng, "colour", language, x=_name_or_shape(rng, scene, item, language))
    return QAPair(
        "colour", language, question, answers.is_coloured(item, colour, language), answers.hue(colour, language)
    )


def _name_or_shape(rng: Generator, scene: Scene, item: SceneItem, language: Language) -> str:
    """Return the object's name, or sometimes 'shape' if it is the only shape."""
    shapes = [other for other in scene.items if other.kind.category == "shape"]
    if shapes == [item] and not scene.frames and rng.random() < 0.2:
        return pick(rng, ("形状", "图形")) if language == "zh" else "shape"
    return name(rng, item.kind, language)


def _total(scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    if scene.frames:
        return None
    number = len(scene.items)
    answer = answers.total(number, language)
    return QAPair("total", language, ask(rng, "total", language), answer, answers.number(number, language))


def _count(scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    """Ask for the number of objects of a kind, sometimes of a kind that is not there."""
    kind = pick(rng, scene.items).kind
    kind = absent(scene, rng, kind) if rng.random() < 0.15 else kind
    number = sum(item.kind == kind for item in scene.items)
    framing = any(overlap(frame.kind, kind) for frame in scene.frames)
    if framing or number < sum(overlap(item.kind, kind) for item in scene.items):
        return None
    names = {"x": name(rng, kind, "zh"), "m": kind.measure} if language == "zh" else {"x": kind.plural}
    answer = answers.there_are(number, kind, None, language)
    return QAPair("count", language, ask(rng, "count", language, **names), answer, answers.number(number, language))


def _where(scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    alone = single(scene)
    if not alone:
        return None
    item = pick(rng, alone)
    question = ask(rng, "where", language, x=name(rng, item.kind, language))
    return QAPair("where", language, question, answers.is_at(item, language), answers.place(item.zone, language))


def _relation(task: str, scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    """Ask whether an object is left or right of another, above or below it; both must be clearly apart."""
    alone = single(scene)
    apart = [(a, b) for a in alone for b in alone if abs(a.x - b.x if task == "side" else a.y - b.y) > 0.18]
    if not apart:
        return None
    one, other = pick(rng, apart)
    first = one.x < other.x if task == "side" else one.y < other.y
    words = {"x": name(rng, one.kind, language), "y": name(rng, other.kind, language)}
    answer, truth = answers.relation(task, one, other, first, language)
    return QAPair("relation", language, ask(rng, task, language, **words), answer, truth)


def _exists(scene: Scene, language: Language, rng: Generator) -> QAPair:
    """Ask whether an object is there; yes and no are equally frequent.

    For 'no', the question names another kind of the same category, or the right kind in a wrong colour.
    """
    item = pick(rng, scene.items)
    colour = item.colour if item.colour and item.drawn and rng.random() < 0.5 else None
    kind, there = item.kind, bool(rng.random() < 0.5)
    if not there and colour is not None and rng.random() < 0.6:
        colour = _wrong_colour(scene, rng, kind)
    elif not there:
        kind = absent(scene, rng, kind)
    question = ask(rng, "exists", language, x=answers.some(name(rng, kind, language, False), kind, colour, language))
    answer = answers.yes_or_no(there, answers.counted(0, kind, colour, language), language)
    return QAPair("exists", language, question, answer, "yes" if there else "no")


def _wrong_colour(scene: Scene, rng: Generator, kind: Kind) -> Colour:
    shown = {item.colour for item in scene.items if overlap(item.kind, kind)}
    shown |= {frame.colour for frame in scene.frames}
    elsewhere = [item.colour for item in scene.items if item.colour and item.colour not in shown]
    if elsewhere and rng.random() < 0.5:
        return pick(rng, elsewhere)
    return pick(rng, [colour for colour in COLOURS if colour not in shown])


def _background(scene: Scene, language: Language, rng: Generator) -> QAPair:
    answer, question = answers.background(scene.background, language), ask(rng, "background", language)
    if scene.items and scene.items[0].whole:
        return QAPair("off topic", language, question, NOT_SHOWN[language], NOT_SHOWN[language])
    return QAPair("background", language, question, answer, answers.ground(scene.background, language))


def _follow_up(scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    """Ask about 'it' in a second turn, after a first one about the name, place or colour of one object."""
    firsts = [m(scene, language, rng) for m in (_where, _colour, _name_by_place, _name_it)]
    first = pick(rng, firsts)
    if first is None or first.task not in ("where", "colour", "name"):
        return None
    item = _item_of(scene, first, language)
    if item is None:
        return None
    turn = _ask_about_it(rng, scene, first.task, item, language)
    history = (*_small_talk(scene, language, rng), (first.question, first.answer))
    return replace(turn, history=history) if turn else None


def _ask_about_it(rng: Generator, scene: Scene, known: str, item: SceneItem, language: Language) -> QAPair | None:
    """Ask for the colour, place or category of 'it', except for what the first turn (task `known`) stated."""
    draw = rng.random()
    if known != "colour" and item.colour and draw < 0.5 and (known == "where" or not item.drawn or draw < 0.1):
        answer, truth = answers.it_is_coloured(item.colour, language), answers.hue(item.colour, language)
        return QAPair("follow-up", language, ask(rng, "it colour", language), answer, truth)
    if known != "where" and not item.whole and draw < 0.85:
        answer, truth = answers.it_is_at(item, language), answers.place(item.zone, language)
        return QAPair("follow-up", language, ask(rng, "it where", language), answer, truth)
    return replace(comparison_questions.of_category(item, ask(rng, "category", language), language), task="follow-up")


def _item_of(scene: Scene, first: QAPair, language: Language) -> SceneItem | None:
    """Return the only object to which the answer of the first turn applies, else None."""

    def answer(item: SceneItem) -> str:
        if first.task == "colour":
            return answers.is_coloured(item, item.colour, language) if item.colour else ""
        return (answers.is_at if first.task == "where" else answers.this_is)(item, language)

    matching = [item for item in scene.items if answer(item) == first.answer]
    return matching[0] if len(matching) == 1 else None


def _small_talk(scene: Scene, language: Language, rng: Generator) -> tuple[tuple[str, str], ...]:
    """Return an unrelated earlier turn, in a third of the dialogues."""
    if rng.random() > 0.33:
        return ()
    earlier = pick(rng, (_total, _background, _exists, _list))(scene, language, rng)
    return ((earlier.question, earlier.answer),) if earlier else ()


def _off_topic(scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    question = pick(rng, OFF_TOPIC[language])
    if any(item.kind.category == LETTER for item in scene.items) and question in ABOUT_TEXT:
        return None
    return QAPair("off topic", language, question, NOT_SHOWN[language], NOT_SHOWN[language])


_MAKERS: dict[str, Maker] = {
    "describe": _describe,
    "list": _list,
    "name": _name_it,
    "name by colour": _name_by_colour,
    "name by place": _name_by_place,
    "shapes": _shapes,
    "colour": _colour,
    "total": _total,
    "count": _count,
    "where": _where,
    "side": lambda scene, language, rng: _relation("side", scene, language, rng),
    "height": lambda scene, language, rng: _relation("height", scene, language, rng),
    "exists": _exists,
    "background": _background,
    "follow-up": _follow_up,
    "category": comparison_questions.category,
    "any": comparison_questions.any_of,
    "size": comparison_questions.size,
    "same colour": comparison_questions.same_colour,
    "odd": comparison_questions.odd,
    "inside": comparison_questions.inside,
    "off topic": _off_topic,
}
TASKS = tuple(_MAKERS)
WORDS: dict[Language, tuple[str, ...]] = {
    language: (
        *(name for kind in kinds() for name in (kind.zh if language == "zh" else (*kind.en, kind.plural))),
        *(answers.hue(colour, language) for colour in COLOURS),
        *(answers.ground(ground, language) for ground in BACKGROUNDS),
        *(answers.place(zone, language) for zone in ZONES),
        *(answers.category(key, language) for key in CATEGORIES),
    )
    for language in LANGUAGES
}
