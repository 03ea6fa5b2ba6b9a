"""Goals of the packed model, and whether its results reach them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from visualglm.evaluation.scenes.kinds import LANGUAGES, Language

Words = dict[Language, str]
Figures = dict[str, Any]
MARGIN = 0.10  # by which names of held-out images must exceed the nearest neighbour
LEAK = 0.05  # by which answers about another image may exceed the commonest answer


@dataclass(frozen=True)
class Result:
    """One goal: the bound, the entries (n, fraction, interval) that must reach it, and the controls."""

    part: str
    name: Words
    bound: float
    entries: dict[str, dict[str, Any]]
    majority: float | None = None
    shuffled: float | None = None
    nearest: float | None = None

    @property
    def reached(self) -> bool:
        return all(entry["n"] > 0 and entry["share"] >= self.bound for entry in self.entries.values())


FIVE: dict[str, tuple[Words, float, float]] = {
    "colour": ({"en": "colour of an object", "zh": "物体的颜色"}, 0.95, 0.80),
    "total": ({"en": "how many objects (1-6)", "zh": "物体总数（1-6）"}, 0.90, 0.75),
    "count": ({"en": "how many of one kind (0-6)", "zh": "某类物体的数量（0-6）"}, 0.90, 0.75),
    "relation": ({"en": "left/right of, above/below", "zh": "两物体的左右、上下关系"}, 0.92, 0.85),
    "exists": ({"en": "is there ...? (balanced)", "zh": "有没有……（平衡准确率）"}, 0.90, 0.80),
    "category": ({"en": "what category", "zh": "属于哪一类"}, 0.90, 0.75),
    "any": ({"en": "is there any of a category? (balanced)", "zh": "有没有某一类（平衡准确率）"}, 0.90, 0.75),
}
PARTS: dict[str, Words] = {
    "pictures": {"en": "Single pictures: what is this?", "zh": "单张图片：这是什么？"},
    "drawn": {"en": "Drawn scenes of 1-6 objects, unseen seeds", "zh": "程序绘制的场景（1-6 个物体，未见过的种子）"},
    "cut-outs": {
        "en": "Scenes of 1-6 real cut-outs never trained on",
        "zh": "真实图片抠图拼成的场景（1-6 个物体，图片均未训练过）",
    },
    "both": {"en": "All scenes and pictures", "zh": "全部场景与图片"},
}


def results(figures: Figures) -> list[Result]:
    """List every goal that has results, in the order of the cards."""
    makers: tuple[Callable[[Figures], Iterator[Result]], ...] = (_images, _scenes, _both)
    return [result for make in makers for result in make(figures)]


def _images(figures: Figures) -> Iterator[Result]:
    names = figures.get("names", {})
    if "unseen_style" in names:
        words: Words = {"en": "an emoji style never trained on", "zh": "从未训练过的表情符号风格"}
        yield _names(words, names["unseen_style"], 0.60)
    if "held_out" in names:
        bound = round(names["held_out"]["nearest"]["share"] + MARGIN, 4)
        words = {"en": "held-out pictures of known sources", "zh": "已知来源中留出的图片"}
        yield _names(words, names["held_out"], bound)
    if "photos" in names:
        words = {"en": "real photographs, sources never trained on", "zh": "真实照片（来源从未训练过）"}
        yield _names(words, names["photos"], names["photos"]["nearest"]["share"])
        sure = names["not sure"]["at"][f"{names['not sure']['wanted']:.2f}"]
        words = {"en": "the same, answers kept back when not sure", "zh": "同上，没有把握时不作答"}
        yield Result("pictures", words, 0.60, {language: sure[language]["photos"] for language in LANGUAGES})


def _names(words: Words, table: Figures, bound: float) -> Result:
    controls = {"majority": table["zh"]["majority"], "nearest": table["nearest"]["share"]}
    shuffled = max(table[language]["shuffled"]["share"] for language in LANGUAGES)
    return Result("pictures", words, bound, _languages(table), shuffled=shuffled, **controls)


def _scenes(figures: Figures) -> Iterator[Result]:
    for place, part in enumerate(("drawn", "cut-outs")):
        tasks = figures.get(part, {}).get("tasks", {})
        for task, (words, *bounds) in FIVE.items():
            if task in tasks:
                yield _task(part, words, tasks[task], bounds[place])


def _task(part: str, words: Words, table: Figures, bound: float) -> Result:
    """Build a goal of one task; for yes and no, with balanced accuracy, whose baseline is one half."""
    entries: dict[str, Any] = {spoken: table[spoken].get("balanced", table[spoken]) for spoken in LANGUAGES}
    shuffled = [table[language]["shuffled"] for language in LANGUAGES]
    other = max(entry.get("balanced", entry)["share"] for entry in shuffled)
    majority = max(table[language]["majority"] for language in LANGUAGES)
    return Result(part, words, bound, entries, 0.5 if "balanced" in table["zh"] else majority, other)


def _both(figures: Figures) -> Iterator[Result]:
    if "zh = en" in figures:
        words: Words = {"en": "Chinese and English answer agree", "zh": "中英文回答一致"}
        yield Result("both", words, 0.92, {"zh = en": figures["zh = en"]})
    for part, table in figures.get("follow-up", {}).items():
        words = {
            "en": f"follow-up right where the first answer was ({part})",
            "zh": "首答正确时追问也答对（" + ("绘制场景" if part == "drawn" else "抠图场景") + "）",
        }
        controls = [max(table[language]["majority"] for language in LANGUAGES)]
        controls.append(max(table[language]["shuffled"]["share"] for language in LANGUAGES))
        yield Result("both", words, 0.85, _languages(table), *controls)


def _languages(table: Figures) -> dict[str, dict[str, Any]]:
    return {language: table[language] for language in LANGUAGES}


def share(entry: dict[str, Any]) -> str:
    """Format a fraction: 0.91 [0.87, 0.93], n = 343."""
    return f"{entry['share']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}], n = {entry['n']}"


def leaks(figures: Figures) -> dict[str, float]:
    """Find tasks whose answers about another image beat the commonest answer by more than `LEAK`, and by how much."""
    found: dict[str, float] = {}
    for part in ("drawn", "cut-outs"):
        for task, table in figures.get(part, {}).get("tasks", {}).items():
            over = [_leak(table[language]) for language in LANGUAGES if table[language]["shuffled"]]
            found |= {f"{part}: {task}": round(max(over), 4)} if over and max(over) > LEAK else {}
    return found


def _leak(entry: Figures) -> float:
    other = entry["shuffled"]
    if "balanced" in other:
        return float(other["balanced"]["low"] - 0.5)
    return float(other["low"] - entry["majority"])


def as_rows(figures: Figures) -> list[dict[str, Any]]:
    """Format the goals for `figures.json`."""
    return [
        {
            "part": result.part,
            "test": result.name["en"],
            "goal": result.bound,
            "reached": result.reached,
            **{name: round(entry["share"], 4) for name, entry in result.entries.items()},
        }
        for result in results(figures)
    ]
