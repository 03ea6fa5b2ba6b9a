"""Sentences that state facts, in Chinese or English.

There is one wording per fact, so that an answer is either right or wrong.
"""

from __future__ import annotations

from .concepts import names_without_article
from .kinds import CATEGORIES, Background, Colour, Kind, Language, Zone
from .question_templates import EN_NUMBERS, ZH_NUMBERS
from .scene import Scene, SceneItem


def noun(kind: Kind, language: Language) -> str:
    return kind.zh[0] if language == "zh" else kind.en[0]


def hue(colour: Colour, language: Language) -> str:
    return colour.zh if language == "zh" else colour.key


def ground(background: Background, language: Language) -> str:
    return background.zh if language == "zh" else background.key


def place(zone: Zone, language: Language) -> str:
    return zone.zh if language == "zh" else zone.en


def number(count: int, language: Language) -> str:
    return ZH_NUMBERS[count] if language == "zh" else EN_NUMBERS[count]


def category(key: str, language: Language) -> str:
    return CATEGORIES[key][language]


def a_category(key: str, language: Language) -> str:
    """Return 动物 / an animal."""
    name = category(key, language)
    return name if language == "zh" else f"{article(name)} {name}"


def mentioned_colour(item: SceneItem) -> Colour | None:
    """Return the colour to mention in lists and names: only that of drawn objects, since photos rarely have one."""
    return item.colour if item.drawn else None


def article(word: str) -> str:
    """Return a or an, by sound; some for uncountable and plural names (milk, scissors)."""
    if word in names_without_article():
        return "some"
    if word.startswith(("uni", "ufo", "usb", "ute", "euro")):
        return "a"
    return "an" if word[0] in "aeiou" or word.startswith(("hour", "x-", "x mark")) else "a"


def counted(count: int, kind: Kind, colour: Colour | None, language: Language) -> str:
    """Return 两个红色的圆形 / two red circles; with count 0 only the name (for 没有圆形 / no circle)."""
    if language == "zh":
        quantity = f"{ZH_NUMBERS[count]}{kind.measure}" if count else ""
        return quantity + (f"{colour.zh}的" if colour else "") + kind.zh[0]
    name = (f"{colour.key} " if colour else "") + (kind.plural if count > 1 else kind.en[0])
    if count == 1:
        return f"{article(name)} {name}"
    return f"{EN_NUMBERS[count]} {name}" if count else name


def some(name: str, kind: Kind, colour: Colour | None, language: Language) -> str:
    """Return 红色的圆 / a red circle, with any of the kind's names."""
    if language == "zh":
        return (f"{colour.zh}的" if colour else "") + name
    phrase = (f"{colour.key} " if colour else "") + name
    return f"{article(name if name in names_without_article() else phrase)} {phrase}"


def joined(phrases: list[str], language: Language) -> str:
    """Join names: a, b and c."""
    if len(phrases) == 1:
        return phrases[0]
    comma, last = ("、", "和") if language == "zh" else (", ", " and ")
    return comma.join(phrases[:-1]) + last + phrases[-1]


def inventory(items: list[SceneItem], language: Language) -> str:
    """Return 图中有两个红色的圆形和一棵绿色的树。 Objects of the same kind and colour are counted together."""
    groups: dict[tuple[Kind, Colour | None], int] = {}
    for item in items:
        thing = (item.kind, mentioned_colour(item))
        groups[thing] = groups.get(thing, 0) + 1
    phrases = [counted(count, kind, colour, language) for (kind, colour), count in groups.items()]
    if language == "zh":
        return f"图中有{joined(phrases, language)}。"
    return f"There {'is' if next(iter(groups.values())) == 1 else 'are'} {joined(phrases, language)}."


def description(scene: Scene, language: Language) -> str:
    """Describe every object with its zone, then the background; for a whole photograph only its object."""
    if scene.items[0].whole:
        return inventory(list(scene.items), language)
    if language == "zh":
        phrases = [f"{item.zone.zh}有{_with_frame(item, language)}" for item in scene.items]
        return "，".join(phrases) + "。" + background(scene.background, language)
    phrases = [f"{_with_frame(item, language)} {item.zone.en}" for item in scene.items]
    return f"There is {joined(phrases, language)}. " + background(scene.background, language)


def _with_frame(item: SceneItem, language: Language) -> str:
    """Return 一只猫, or 圆形里的一只猫 for an object inside a shape."""
    phrase = counted(1, item.kind, mentioned_colour(item), language)
    if item.frame is None:
        return phrase
    if language == "zh":
        return f"{item.frame.colour.zh}的{item.frame.kind.zh[0]}里的{phrase}"
    return f"{phrase} inside {some(item.frame.kind.en[0], item.frame.kind, item.frame.colour, language)}"


def background(ground_: Background, language: Language) -> str:
    if ground_.texture == "photo":
        return "背景是一张照片。" if language == "zh" else "The background is a photograph."
    if language == "zh":
        return f"背景是{ground_.zh}。" if ground_.texture else f"背景是{ground_.zh}的。"
    article_ = {"sea": "the ", "night": "the ", "pattern": "a "}.get(ground_.texture or "grass", "")
    return f"The background is {article_}{ground_.key}."


def this_is(item: SceneItem, language: Language) -> str:
    phrase = counted(1, item.kind, mentioned_colour(item), language)
    return f"这是{phrase}。" if language == "zh" else f"It is {phrase}."


def is_coloured(item: SceneItem, colour: Colour, language: Language) -> str:
    if language == "zh":
        return f"{item.kind.zh[0]}是{colour.zh}的。"
    return f"The {item.kind.en[0]} is {colour.key}."


def it_is_coloured(colour: Colour, language: Language) -> str:
    return f"它是{colour.zh}的。" if language == "zh" else f"It is {colour.key}."


def is_a(kind: Kind, language: Language) -> str:
    """Return 它是动物。 / It is an animal."""
    name = a_category(kind.category, language)
    return f"它是{name}。" if language == "zh" else f"It is {name}."


def is_of(kind: Kind, language: Language) -> str:
    """Return 狗是动物。 / A dog is an animal."""
    name = a_category(kind.category, language)
    if language == "zh":
        return f"{kind.zh[0]}是{name}。"
    return f"{article(kind.en[0]).capitalize()} {kind.en[0]} is {name}."


def is_larger(item: SceneItem, language: Language) -> str:
    return f"{item.kind.zh[0]}更大。" if language == "zh" else f"The {item.kind.en[0]} is larger."


def same_colour(same: bool, language: Language) -> str:
    if language == "zh":
        return "一样，它们的颜色相同。" if same else "不一样，它们的颜色不同。"
    return "Yes, they have the same colour." if same else "No, their colours differ."


def is_not(item: SceneItem, key: str, language: Language) -> str:
    """Return 狗不是水果。 / The dog is not a fruit."""
    name = a_category(key, language)
    return f"{item.kind.zh[0]}不是{name}。" if language == "zh" else f"The {item.kind.en[0]} is not {name}."


def is_inside(item: SceneItem, language: Language) -> str:
    phrase = counted(1, item.kind, mentioned_colour(item), language)
    return f"里面是{phrase}。" if language == "zh" else f"There is {phrase} inside."


def called(kind: Kind, language: Language) -> str:
    """Translate a name: 狗的英语是dog。 / The Chinese word for dog is 狗."""
    return (
        f"{kind.zh[0]}的英语是{kind.en[0]}。"
        if language == "zh"
        else f"The Chinese word for {kind.en[0]} is {kind.zh[0]}."
    )


def is_at(item: SceneItem, language: Language) -> str:
    if language == "zh":
        return f"{item.kind.zh[0]}在{item.zone.zh}。"
    return f"The {item.kind.en[0]} is {item.zone.en}."


def it_is_at(item: SceneItem, language: Language) -> str:
    return f"它在{item.zone.zh}。" if language == "zh" else f"It is {item.zone.en}."


def total(count: int, language: Language) -> str:
    if language == "zh":
        return f"图中有{ZH_NUMBERS[count]}个物体。"
    return f"There {'is' if count == 1 else 'are'} {EN_NUMBERS[count]} object{'' if count == 1 else 's'}."


def there_are(count: int, kind: Kind, colour: Colour | None, language: Language) -> str:
    """Return 图中有两个圆形。 / 图中没有圆形。"""
    if count == 0:
        return there_is_none(counted(0, kind, colour, language), language)
    if language == "zh":
        return f"图中有{counted(count, kind, colour, language)}。"
    named = counted(count, kind, colour, language) if count > 1 else f"one {kind.en[0]}"
    return f"There {'is' if count == 1 else 'are'} {named}."


def there_is_none(name: str, language: Language) -> str:
    return f"图中没有{name}。" if language == "zh" else f"There is no {name}."


def no_shapes(language: Language) -> str:
    return there_is_none("形状" if language == "zh" else "shape", language)


def yes_or_no(there: bool, name: str, language: Language) -> str:
    """Answer yes or no; `name` is the name of a kind (`counted(0, ...)`) or of a category."""
    if language == "zh":
        return f"有，图中有{name}。" if there else f"没有，图中没有{name}。"
    return f"Yes, there is {article(name)} {name}." if there else f"No, there is no {name}."


def relation(task: str, one: SceneItem, other: SceneItem, first: bool, language: Language) -> tuple[str, str]:
    """Return the answer and its decisive word; `first`: `one` has the smaller coordinate (is left or above)."""
    zh, en = (("左边", "右边"), ("left", "right")) if task == "side" else (("上面", "下面"), ("above", "below"))
    word = (zh if language == "zh" else en)[0 if first else 1]
    if language == "zh":
        return f"{one.kind.zh[0]}在{other.kind.zh[0]}的{word}。", word
    link = f"{word} of" if task == "side" else word
    return f"The {one.kind.en[0]} is {link} the {other.kind.en[0]}.", word
