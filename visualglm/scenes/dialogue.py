"""scenes/dialogue: Scene -> what one may ask about it, in Chinese or English, and the true answers.

In: a scene, a language, a random generator. Out: `Exchange`s: task, earlier turns, question, answer, and `truth`, the
words by which an answer is judged. Every task has many wordings of the question and one of the answer, so that a
greedy answer is either right or wrong. Knows nothing about tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from numpy.random import Generator

from . import speech
from .compose import Item, Scene
from .vocabulary import BACKGROUNDS, COLOURS, KINDS, ZONES, Colour, Kind, Language
from .wording import GREETED, GREETINGS, NO_PICTURE, NOT_SHOWN, OFF_TOPIC, QUESTIONS

T = TypeVar("T")
Turn = tuple[str, str]


@dataclass(frozen=True)
class Exchange:
    """One question with its true answer; `history` holds the turns before it, oldest first."""

    task: str
    language: Language
    question: str
    answer: str
    truth: str
    history: tuple[Turn, ...] = ()
    with_picture: bool = True


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
        return Exchange("greeting", language, _pick(rng, GREETINGS[language]), GREETED[language], "", (), False)
    task = _pick(rng, ("describe", "list", "name", "total", "background"))
    return Exchange("no picture", language, _ask(rng, task, language), NO_PICTURE[language], "", (), False)


def _pick(rng: Generator, choices: tuple[T, ...] | list[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def _ask(rng: Generator, task: str, language: Language, **words: str) -> str:
    return _pick(rng, QUESTIONS[task][language]).format(**words)


def _name(rng: Generator, kind: Kind, language: Language) -> str:
    """Mostly the usual name, sometimes a synonym."""
    names = kind.zh if language == "zh" else kind.en
    return names[0] if rng.random() < 0.6 else _pick(rng, names)


def _single(scene: Scene) -> list[Item]:
    """The objects that are the only ones of their kind."""
    kinds = [item.kind for item in scene.items]
    return [item for item in scene.items if kinds.count(item.kind) == 1]


def _describe(scene: Scene, language: Language, rng: Generator) -> Exchange:
    answer = speech.description(scene, language)
    return Exchange("describe", language, _ask(rng, "describe", language), answer, answer)


def _list(scene: Scene, language: Language, rng: Generator) -> Exchange:
    answer = speech.inventory(list(scene.items), language)
    return Exchange("list", language, _ask(rng, "list", language), answer, answer)


def _name_it(scene: Scene, language: Language, rng: Generator) -> Exchange | None:
    question = _ask(rng, "name", language)
    if len(scene.items) > 1:
        answer = speech.inventory(list(scene.items), language)
        return Exchange("list", language, question, answer, answer)
    item = scene.items[0]
    return Exchange("name", language, question, speech.this_is(item, language), speech.noun(item.kind, language))


def _name_by_colour(scene: Scene, language: Language, rng: Generator) -> Exchange | None:
    colours = [item.colour for item in scene.items]
    alone = [item for item in scene.items if colours.count(item.colour) == 1]
    if not alone:
        return None
    item = _pick(rng, alone)
    question = _ask(rng, "name by colour", language, x=speech.hue(item.colour, language))
    return Exchange("name", language, question, speech.this_is(item, language), speech.noun(item.kind, language))


def _name_by_place(scene: Scene, language: Language, rng: Generator) -> Exchange:
    item = _pick(rng, scene.items)
    question = _ask(rng, "name by place", language, x=speech.place(item.zone, language))
    return Exchange("name", language, question, speech.this_is(item, language), speech.noun(item.kind, language))


def _shapes(scene: Scene, language: Language, rng: Generator) -> Exchange:
    shown = [item for item in scene.items if item.kind.category == "shape"]
    answer = speech.inventory(shown, language) if shown else speech.no_shapes(language)
    return Exchange("shapes", language, _ask(rng, "shapes", language), answer, answer)


def _colour(scene: Scene, language: Language, rng: Generator) -> Exchange | None:
    """The colour of a thing; one time in twelve of a thing that is not there."""
    if rng.random() < 0.08:
        kind = _absent(scene, rng, _pick(rng, KINDS))
        question = _ask(rng, "colour", language, x=_name(rng, kind, language))
        answer = speech.there_is_none(speech.counted(0, kind, None, language), language)
        return Exchange("absent", language, question, answer, "")
    alone = _single(scene)
    if not alone:
        return None
    item = _pick(rng, alone)
    question = _ask(rng, "colour", language, x=_called(rng, scene, item, language))
    return Exchange("colour", language, question, speech.is_coloured(item, language), speech.hue(item.colour, language))


def _called(rng: Generator, scene: Scene, item: Item, language: Language) -> str:
    """The object's name, or 'shape' where it is the only shape."""
    shapes = [other for other in scene.items if other.kind.category == "shape"]
    if shapes == [item] and rng.random() < 0.2:
        return _pick(rng, ("形状", "图形")) if language == "zh" else "shape"
    return _name(rng, item.kind, language)


def _total(scene: Scene, language: Language, rng: Generator) -> Exchange:
    number = len(scene.items)
    answer = speech.total(number, language)
    return Exchange("total", language, _ask(rng, "total", language), answer, speech.number(number, language))


def _count(scene: Scene, language: Language, rng: Generator) -> Exchange:
    """How many of a kind (now and then of a kind that is not there)."""
    kind = _pick(rng, scene.items).kind
    kind = _absent(scene, rng, kind) if rng.random() < 0.15 else kind
    number = sum(item.kind == kind for item in scene.items)
    names = {"x": _name(rng, kind, "zh"), "m": kind.measure} if language == "zh" else {"x": kind.plural}
    answer = speech.there_are(number, kind, None, language)
    return Exchange("count", language, _ask(rng, "count", language, **names), answer, speech.number(number, language))


def _where(scene: Scene, language: Language, rng: Generator) -> Exchange | None:
    alone = _single(scene)
    if not alone:
        return None
    item = _pick(rng, alone)
    question = _ask(rng, "where", language, x=_name(rng, item.kind, language))
    return Exchange("where", language, question, speech.is_at(item, language), speech.place(item.zone, language))


def _beside(task: str, scene: Scene, language: Language, rng: Generator) -> Exchange | None:
    """Left or right of, above or below: only where the two are clearly apart."""
    alone = _single(scene)
    apart = [(a, b) for a in alone for b in alone if abs(a.x - b.x if task == "side" else a.y - b.y) > 0.18]
    if not apart:
        return None
    one, other = _pick(rng, apart)
    first = one.x < other.x if task == "side" else one.y < other.y
    words = {"x": _name(rng, one.kind, language), "y": _name(rng, other.kind, language)}
    answer, truth = speech.relation(task, one, other, first, language)
    return Exchange("relation", language, _ask(rng, task, language, **words), answer, truth)


def _exists(scene: Scene, language: Language, rng: Generator) -> Exchange:
    """Yes or no, evenly; 'no' asks for another kind of the same category, or the right kind in a wrong colour."""
    item = _pick(rng, scene.items)
    kind, colour, there = item.kind, item.colour if rng.random() < 0.5 else None, bool(rng.random() < 0.5)
    if not there and colour is not None and rng.random() < 0.6:
        colour = _wrong_colour(scene, rng, kind)
    elif not there:
        kind = _absent(scene, rng, kind)
    question = _ask(rng, "exists", language, x=speech.some(_name(rng, kind, language), kind, colour, language))
    return Exchange(
        "exists", language, question, speech.yes_or_no(there, kind, colour, language), "yes" if there else "no"
    )


def _absent(scene: Scene, rng: Generator, like: Kind) -> Kind:
    shown = {item.kind for item in scene.items}
    return _pick(rng, [kind for kind in KINDS if kind not in shown and kind.category == like.category])


def _wrong_colour(scene: Scene, rng: Generator, kind: Kind) -> Colour:
    shown = {item.colour for item in scene.items if item.kind == kind}
    elsewhere = [item.colour for item in scene.items if item.colour not in shown]
    if elsewhere and rng.random() < 0.5:
        return _pick(rng, elsewhere)
    return _pick(rng, [colour for colour in COLOURS if colour not in shown])


def _background(scene: Scene, language: Language, rng: Generator) -> Exchange:
    answer = speech.background(scene.background, language)
    return Exchange(
        "background", language, _ask(rng, "background", language), answer, speech.ground(scene.background, language)
    )


def _follow_up(scene: Scene, language: Language, rng: Generator) -> Exchange | None:
    """A second turn that refers back: the first named, found or coloured one object; now 'it' is asked about."""
    firsts = [m(scene, language, rng) for m in (_where, _colour, _name_by_place, _name_it)]
    first = _pick(rng, firsts)
    if first is None or first.task not in ("where", "colour", "name"):
        return None
    item = _meant(scene, first, language)
    if item is None:
        return None
    task = "it colour" if first.task == "where" or (first.task == "name" and rng.random() < 0.5) else "it where"
    if task == "it colour":
        answer, truth = speech.it_is_coloured(item, language), speech.hue(item.colour, language)
    else:
        answer, truth = speech.it_is_at(item, language), speech.place(item.zone, language)
    history = (*_small_talk(scene, language, rng), (first.question, first.answer))
    return Exchange("follow-up", language, _ask(rng, task, language), answer, truth, history)


def _meant(scene: Scene, first: Exchange, language: Language) -> Item | None:
    """The one object whose first-turn answer this is."""
    say = {"where": speech.is_at, "colour": speech.is_coloured, "name": speech.this_is}[first.task]
    meant = [item for item in scene.items if say(item, language) == first.answer]
    return meant[0] if len(meant) == 1 else None


def _small_talk(scene: Scene, language: Language, rng: Generator) -> tuple[Turn, ...]:
    """A turn before the turn referred to, in a third of the dialogues."""
    if rng.random() > 0.33:
        return ()
    earlier = _pick(rng, (_total, _background, _exists, _list))(scene, language, rng)
    return ((earlier.question, earlier.answer),)


def _off_topic(scene: Scene, language: Language, rng: Generator) -> Exchange:
    return Exchange("off topic", language, _pick(rng, OFF_TOPIC[language]), NOT_SHOWN[language], NOT_SHOWN[language])


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
    "off topic": _off_topic,
}
TASKS = tuple(_MAKERS)
WORDS: dict[Language, tuple[str, ...]] = {
    language: (
        *(name for kind in KINDS for name in (kind.zh if language == "zh" else (*kind.en, kind.plural))),
        *(speech.hue(colour, language) for colour in COLOURS),
        *(speech.ground(ground, language) for ground in BACKGROUNDS),
        *(speech.place(zone, language) for zone in ZONES),
    )
    for language in ("zh", "en")  # type: ignore[misc]
}
