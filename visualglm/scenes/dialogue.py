"""scenes/dialogue: Scene -> what one may ask about it, in Chinese or English, and the true answers.

In: a scene, a language, a random generator. Out: `Exchange`s: task, earlier turns, question, answer, and `truth`, the
words by which an answer is judged. Every task has many wordings of the question and one of the answer, so that a
greedy answer is either right or wrong. Knows nothing about tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from numpy.random import Generator

from . import comparing, speech
from .compose import Item, Scene
from .concepts import LETTER, kinds, overlap
from .exchange import Exchange, absent, ask, name, pick, single
from .vocabulary import BACKGROUNDS, CATEGORIES, COLOURS, LANGUAGES, ZONES, Colour, Kind, Language
from .wording import ABOUT_TEXT, GREETED, GREETINGS, NO_PICTURE, NOT_SHOWN, OFF_TOPIC

Maker = Callable[[Scene, Language, Generator], "Exchange | None"]


def exchanges(scene: Scene, language: Language, rng: Generator, tasks: tuple[str, ...] | None = None) -> list[Exchange]:
    """One exchange for every task that this scene allows (a colour question needs an object that stands alone)."""
    made = (_MAKERS[task](scene, language, rng) for task in tasks or tuple(_MAKERS))
    return [exchange for exchange in made if exchange is not None]


def exchange_of(task: str, scene: Scene, language: Language, rng: Generator) -> Exchange | None:
    """An exchange of one task, or None where the scene does not allow it."""
    return _MAKERS[task](scene, language, rng)


def after_other_turns(exchange: Exchange, scene: Scene, rng: Generator) -> Exchange:
    """The same question later in a dialogue: one or two turns about anything else in the picture come first."""
    tasks = rng.choice([task for task in TASKS if task != "follow-up"], size=int(rng.integers(1, 3)), replace=False)
    made = (_MAKERS[str(task)](scene, exchange.language, rng) for task in tasks)
    return replace(exchange, history=tuple((turn.question, turn.answer) for turn in made if turn is not None))


def without_picture(language: Language, rng: Generator) -> Exchange:
    """A greeting, or a question about a picture that nobody gave."""
    if rng.random() < 0.5:
        return Exchange("greeting", language, pick(rng, GREETINGS[language]), GREETED[language], "", (), False)
    task = pick(rng, ("describe", "list", "name", "total", "background"))
    return Exchange("no picture", language, ask(rng, task, language), NO_PICTURE[language], "", (), False)


def _describe(scene: Scene, language: Language, rng: Generator) -> Exchange:
    answer = speech.description(scene, language)
    return Exchange("describe", language, ask(rng, "describe", language), answer, answer)


def _list(scene: Scene, language: Language, rng: Generator) -> Exchange | None:
    if scene.frames:
        return None
    answer = speech.inventory(list(scene.items), language)
    return Exchange("list", language, ask(rng, "list", language), answer, answer)


def _name_it(scene: Scene, language: Language, rng: Generator) -> Exchange | None:
    question = ask(rng, "name", language)
    if scene.frames:
        return None
    if len(scene.items) > 1:
        answer = speech.inventory(list(scene.items), language)
        return Exchange("list", language, question, answer, answer)
    item = scene.items[0]
    return Exchange("name", language, question, speech.this_is(item, language), speech.noun(item.kind, language))


def _name_by_colour(scene: Scene, language: Language, rng: Generator) -> Exchange | None:
    colours = [item.colour for item in scene.items] + [frame.colour for frame in scene.frames]
    alone = [(item, item.colour) for item in scene.items if item.colour and colours.count(item.colour) == 1]
    if not alone:
        return None
    item, colour = pick(rng, alone)
    question = ask(rng, "name by colour", language, x=speech.hue(colour, language))
    return Exchange("name", language, question, speech.this_is(item, language), speech.noun(item.kind, language))


def _name_by_place(scene: Scene, language: Language, rng: Generator) -> Exchange | None:
    unframed = [item for item in scene.items if item.frame is None]
    if not unframed:
        return None
    item = pick(rng, unframed)
    question = ask(rng, "name by place", language, x=speech.place(item.zone, language))
    return Exchange("name", language, question, speech.this_is(item, language), speech.noun(item.kind, language))


def _shapes(scene: Scene, language: Language, rng: Generator) -> Exchange | None:
    if scene.frames or not all(item.drawn for item in scene.items):
        return None
    shown = [item for item in scene.items if item.kind.category == "shape"]
    answer = speech.inventory(shown, language) if shown else speech.no_shapes(language)
    return Exchange("shapes", language, ask(rng, "shapes", language), answer, answer)


def _colour(scene: Scene, language: Language, rng: Generator) -> Exchange | None:
    """The colour of a thing; one time in twelve of a thing that is not there."""
    if rng.random() < 0.08:
        kind = absent(scene, rng, pick(rng, scene.items).kind)
        question = ask(rng, "colour", language, x=name(rng, kind, language))
        answer = speech.there_is_none(speech.counted(0, kind, None, language), language)
        return Exchange("absent", language, question, answer, "")
    alone = [(item, item.colour) for item in single(scene) if item.colour]
    if not alone:
        return None
    item, colour = pick(rng, alone)
    question = ask(rng, "colour", language, x=_called(rng, scene, item, language))
    return Exchange(
        "colour", language, question, speech.is_coloured(item, colour, language), speech.hue(colour, language)
    )


def _called(rng: Generator, scene: Scene, item: Item, language: Language) -> str:
    """The object's name, or 'shape' where it is the only shape."""
    shapes = [other for other in scene.items if other.kind.category == "shape"]
    if shapes == [item] and not scene.frames and rng.random() < 0.2:
        return pick(rng, ("形状", "图形")) if language == "zh" else "shape"
    return name(rng, item.kind, language)


def _total(scene: Scene, language: Language, rng: Generator) -> Exchange | None:
    if scene.frames:
        return None
    number = len(scene.items)
    answer = speech.total(number, language)
    return Exchange("total", language, ask(rng, "total", language), answer, speech.number(number, language))


def _count(scene: Scene, language: Language, rng: Generator) -> Exchange | None:
    """How many of a kind (now and then of a kind that is not there)."""
    kind = pick(rng, scene.items).kind
    kind = absent(scene, rng, kind) if rng.random() < 0.15 else kind
    number = sum(item.kind == kind for item in scene.items)
    framing = any(overlap(frame.kind, kind) for frame in scene.frames)
    if framing or number < sum(overlap(item.kind, kind) for item in scene.items):
        return None
    names = {"x": name(rng, kind, "zh"), "m": kind.measure} if language == "zh" else {"x": kind.plural}
    answer = speech.there_are(number, kind, None, language)
    return Exchange("count", language, ask(rng, "count", language, **names), answer, speech.number(number, language))


def _where(scene: Scene, language: Language, rng: Generator) -> Exchange | None:
    alone = single(scene)
    if not alone:
        return None
    item = pick(rng, alone)
    question = ask(rng, "where", language, x=name(rng, item.kind, language))
    return Exchange("where", language, question, speech.is_at(item, language), speech.place(item.zone, language))


def _beside(task: str, scene: Scene, language: Language, rng: Generator) -> Exchange | None:
    """Left or right of, above or below: only where the two are clearly apart."""
    alone = single(scene)
    apart = [(a, b) for a in alone for b in alone if abs(a.x - b.x if task == "side" else a.y - b.y) > 0.18]
    if not apart:
        return None
    one, other = pick(rng, apart)
    first = one.x < other.x if task == "side" else one.y < other.y
    words = {"x": name(rng, one.kind, language), "y": name(rng, other.kind, language)}
    answer, truth = speech.relation(task, one, other, first, language)
    return Exchange("relation", language, ask(rng, task, language, **words), answer, truth)


def _exists(scene: Scene, language: Language, rng: Generator) -> Exchange:
    """Yes or no, evenly; 'no' asks for another kind of the same category, or the right kind in a wrong colour."""
    item = pick(rng, scene.items)
    colour = item.colour if item.colour and item.drawn and rng.random() < 0.5 else None
    kind, there = item.kind, bool(rng.random() < 0.5)
    if not there and colour is not None and rng.random() < 0.6:
        colour = _wrong_colour(scene, rng, kind)
    elif not there:
        kind = absent(scene, rng, kind)
    question = ask(rng, "exists", language, x=speech.some(name(rng, kind, language), kind, colour, language))
    answer = speech.yes_or_no(there, speech.counted(0, kind, colour, language), language)
    return Exchange("exists", language, question, answer, "yes" if there else "no")


def _wrong_colour(scene: Scene, rng: Generator, kind: Kind) -> Colour:
    shown = {item.colour for item in scene.items if overlap(item.kind, kind)}
    shown |= {frame.colour for frame in scene.frames}
    elsewhere = [item.colour for item in scene.items if item.colour and item.colour not in shown]
    if elsewhere and rng.random() < 0.5:
        return pick(rng, elsewhere)
    return pick(rng, [colour for colour in COLOURS if colour not in shown])


def _background(scene: Scene, language: Language, rng: Generator) -> Exchange:
    answer, question = speech.background(scene.background, language), ask(rng, "background", language)
    if scene.items and scene.items[0].whole:
        return Exchange("off topic", language, question, NOT_SHOWN[language], NOT_SHOWN[language])
    return Exchange("background", language, question, answer, speech.ground(scene.background, language))


def _follow_up(scene: Scene, language: Language, rng: Generator) -> Exchange | None:
    """A second turn that refers back: the first named, found or coloured one object; now 'it' is asked about."""
    firsts = [m(scene, language, rng) for m in (_where, _colour, _name_by_place, _name_it)]
    first = pick(rng, firsts)
    if first is None or first.task not in ("where", "colour", "name"):
        return None
    item = _meant(scene, first, language)
    if item is None:
        return None
    turn = _it(rng, scene, first.task, item, language)
    history = (*_small_talk(scene, language, rng), (first.question, first.answer))
    return replace(turn, history=history) if turn else None


def _it(rng: Generator, scene: Scene, told: str, item: Item, language: Language) -> Exchange | None:
    """A question about 'it': its colour, place or category, but not what the first turn told."""
    chance = rng.random()
    if told != "colour" and item.colour and chance < 0.5 and (told == "where" or not item.drawn or chance < 0.1):
        answer, truth = speech.it_is_coloured(item.colour, language), speech.hue(item.colour, language)
        return Exchange("follow-up", language, ask(rng, "it colour", language), answer, truth)
    if told != "where" and not item.whole and chance < 0.85:
        answer, truth = speech.it_is_at(item, language), speech.place(item.zone, language)
        return Exchange("follow-up", language, ask(rng, "it where", language), answer, truth)
    return replace(comparing.of_category(item, ask(rng, "category", language), language), task="follow-up")


def _meant(scene: Scene, first: Exchange, language: Language) -> Item | None:
    """The one object whose first-turn answer this is."""

    def said(item: Item) -> str:
        if first.task == "colour":
            return speech.is_coloured(item, item.colour, language) if item.colour else ""
        return (speech.is_at if first.task == "where" else speech.this_is)(item, language)

    meant = [item for item in scene.items if said(item) == first.answer]
    return meant[0] if len(meant) == 1 else None


def _small_talk(scene: Scene, language: Language, rng: Generator) -> tuple[tuple[str, str], ...]:
    """A turn before the turn referred to, in a third of the dialogues."""
    if rng.random() > 0.33:
        return ()
    earlier = pick(rng, (_total, _background, _exists, _list))(scene, language, rng)
    return ((earlier.question, earlier.answer),) if earlier else ()


def _off_topic(scene: Scene, language: Language, rng: Generator) -> Exchange | None:
    question = pick(rng, OFF_TOPIC[language])
    if any(item.kind.category == LETTER for item in scene.items) and question in ABOUT_TEXT:
        return None
    return Exchange("off topic", language, question, NOT_SHOWN[language], NOT_SHOWN[language])


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
    "side": lambda scene, language, rng: _beside("side", scene, language, rng),
    "height": lambda scene, language, rng: _beside("height", scene, language, rng),
    "exists": _exists,
    "background": _background,
    "follow-up": _follow_up,
    "category": comparing.category,
    "any": comparing.any_of,
    "size": comparing.size,
    "same colour": comparing.same_colour,
    "odd": comparing.odd,
    "inside": comparing.inside,
    "off topic": _off_topic,
}
TASKS = tuple(_MAKERS)
WORDS: dict[Language, tuple[str, ...]] = {
    language: (
        *(name for kind in kinds() for name in (kind.zh if language == "zh" else (*kind.en, kind.plural))),
        *(speech.hue(colour, language) for colour in COLOURS),
        *(speech.ground(ground, language) for ground in BACKGROUNDS),
        *(speech.place(zone, language) for zone in ZONES),
        *(speech.category(key, language) for key in CATEGORIES),
    )
    for language in LANGUAGES
}
