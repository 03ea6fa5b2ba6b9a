"""Write the results of `figures.json` and `photo_figures.json` as tables into model cards.

Run: `make mini-eval mini-photos`. The text between `<!-- figures -->` and `<!-- /figures -->`, and between the marks of
photographs, is replaced; the rest of the card is unchanged.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from visualglm.evaluation.scenes.kinds import Language

from .photo_table import photo_block
from .targets import FIVE, LEAK, PARTS, Figures, Result, Words, results, share

CARDS: dict[Language, str] = {"en": "MODEL_CARD.md", "zh": "MODEL_CARD_zh.md"}
GOAL_HEAD: Words = {
    "en": "| test | asked in Chinese | asked in English | commonest answer alone | another picture shown | "
    "nearest neighbour | goal | reached |",
    "zh": "| 测试 | 中文提问 | 英文提问 | 只答最常见答案 | 换成别的图片 | 最近邻 | 目标 | 达到 |",
}
MORE_HEAD: Words = {
    "en": "| other tasks | drawn, Chinese | drawn, English | cut-outs, Chinese | cut-outs, English |",
    "zh": "| 其他任务 | 绘制，中文 | 绘制，英文 | 抠图，中文 | 抠图，英文 |",
}
MORE: dict[str, Words] = {
    "name": {"en": "name of an object (alone, by colour, by place)", "zh": "说出物体名称（单独、按颜色、按位置）"},
    "where": {"en": "where an object is (9 places)", "zh": "物体的位置（9 个方位）"},
    "background": {"en": "background (12 kinds)", "zh": "背景（12 种）"},
    "size": {"en": "which of two is larger", "zh": "两物体谁更大"},
    "same colour": {"en": "same colour? (yes/no)", "zh": "颜色是否相同（是/否）"},
    "odd": {"en": "which one is not of the category", "zh": "哪个不属于某一类"},
    "shapes": {"en": "which shapes, all right", "zh": "有哪些形状（全对）"},
    "list": {"en": "list of all objects, all right", "zh": "列出全部物体（全对）"},
    "describe": {"en": "whole description, all right", "zh": "完整描述（全对）"},
    "absent": {"en": "notices that the object is not there", "zh": "指出物体不存在"},
    "off topic": {"en": "says 'I am not sure' where it must", "zh": "无法得知时回答“不确定”"},
}
EXISTS: Words = {"en": "is there ...?", "zh": "有没有……"}
YES_NO: dict[Language, tuple[str, str]] = {"en": ("yes", "no"), "zh": ("是", "否")}
NOTES: Words = {
    "en": "Share right [95 % Wilson interval], n; greedy decoding, {date}; {scenes} scenes of each sort. Weights "
    "sha256 `{sha}`.",
    "zh": "数字为正确率 [95% Wilson 区间]、n；贪心解码，{date}；每类 {scenes} 个场景。权重 sha256 `{sha}`。",
}
NEIGHBOUR: Words = {
    "en": "Nearest neighbour: the name of the nearest of {training:,} training pictures by the model's own vectors "
    "({chosen}; chosen on validation pictures). Nearest mean of a concept: {centroids}.",
    "zh": "最近邻：按模型自身向量（{chosen}，依验证集选定）在 {training:,} 张训练图片中取最近一张的名称。按概念均值："
    "{centroids}。",
}
VECTORS = {
    "mean of the projected queries": "查询向量投影的均值",
    "all projected queries": "全部查询向量的投影",
    "class token of the ViT": "ViT 的分类向量",
}
FALLS: Words = {
    "en": "Another picture shown: no task is more than {leak:.2f} above its commonest answer, for sure.",
    "zh": "换成别的图片时，没有任务确定地比最常见答案高出 {leak:.2f} 以上。",
}
LEAKS: Words = {
    "en": "Another picture shown, these tasks are still more than {leak:.2f} above their commonest answer, for sure: "
    "{tasks}.",
    "zh": "换成别的图片时，以下任务仍确定地比最常见答案高出 {leak:.2f} 以上：{tasks}。",
}
UNSEEN: Words = {
    "en": "Concepts never trained on ({concepts}, {n} pictures): asked for the category, it is right in {zh} (Chinese) "
    "and {en} (English; commonest category alone {majority:.2f}, nearest neighbour's category {nearest:.2f}); the name "
    "it gives is of the right category in {name_zh:.2f} / {name_en:.2f}, and the right name in {right_zh:.2f} / "
    "{right_en:.2f}.",
    "zh": "从未训练过的概念（{concepts} 个，{n} 张图片）：问类别时正确率为 {zh}（中文）、{en}（英文；最常见类别 "
    "{majority:.2f}，最近邻的类别 {nearest:.2f}）；所答名称的类别正确率为 {name_zh:.2f} / {name_en:.2f}，名称正确率为 "
    "{right_zh:.2f} / {right_en:.2f}。",
}
SURE: Words = {
    "en": "Answers kept back: given only where the model's probability of its whole answer is at least {zh:.3f} "
    "(Chinese) or {en:.3f} (English), where {wanted:.0%} of validation answers are right. Of photographs, "
    "{cover_zh:.0%} / {cover_en:.0%} then get an answer.",
    "zh": "不作答：只有当模型给整句回答的概率不低于 {zh:.3f}（中文）或 {en:.3f}（英文）时才作答，此时验证集"
    "回答的正确率为 {wanted:.0%}。照片中有 {cover_zh:.0%} / {cover_en:.0%} 得到回答。",
}


def block(figures: Figures, language: Language) -> str:
    """Build the text between the marks: goals, other tasks, notes."""
    notes = [
        NOTES[language].format(date=figures["date"], sha=figures["weights_sha256"], scenes=figures["drawn"]["scenes"])
    ]
    notes.append(_leaks(figures, language))
    names = figures.get("names", {})
    if names:
        notes.append(_neighbour(names, language))
        notes.append(_sure(names, language))
    if "unseen_concept" in names:
        notes.append(_unseen(names["unseen_concept"], language))
    return "\n\n".join([goal_table(figures, language), more_table(figures, language), *notes])


def goal_table(figures: Figures, language: Language) -> str:
    """Build a table with a row per goal, under the heading of its part."""
    lines, part = [GOAL_HEAD[language], "|---" * 8 + "|"], ""
    for result in results(figures):
        if result.part != part:
            part = result.part
            lines.append(f"| **{PARTS[part][language]}** | | | | | | | |")
        lines.append(_goal_row(result, language))
    return "\n".join(lines)


def _goal_row(result: Result, language: Language) -> str:
    shares = [share(entry) for entry in result.entries.values()]
    controls = [f"{c:.2f}" if c is not None else "" for c in (result.majority, result.shuffled, result.nearest)]
    shares += [""] * (2 - len(shares))
    reached = YES_NO[language][0 if result.reached else 1]
    cells = [result.name[language], *shares, *controls, f"≥ {result.bound:.2f}", reached]
    return "| " + " | ".join(cells) + " |"


def more_table(figures: Figures, language: Language) -> str:
    """Build a table of the tasks without a goal."""
    lines = [MORE_HEAD[language], "|---" * 5 + "|"]
    for task, words in MORE.items():
        cells = [
            share(figures[part]["tasks"][task][asked]) if task in figures.get(part, {}).get("tasks", {}) else ""
            for part in ("drawn", "cut-outs")
            for asked in ("zh", "en")
        ]
        if any(cells):
            lines.append("| " + " | ".join([words[language], *cells]) + " |")
    return "\n".join([*lines, *_later(figures, language)])


def _later(figures: Figures, language: Language) -> Iterator[str]:
    """Yield rows of later questions in a dialogue, after the model's own answers."""
    after: Words = {"en": "later in a dialogue: {}", "zh": "对话后续轮次：{}"}
    names = {**{task: words for task, (words, *_) in FIVE.items()}, **MORE, "exists": EXISTS}
    parts = figures.get("follow-up", {})
    for task in next(iter(parts.values()), {"zh": {"later questions": {}}})["zh"]["later questions"]:
        cells = [
            share(parts[part][asked]["later questions"][task]) if part in parts else ""
            for part in ("drawn", "cut-outs")
            for asked in ("zh", "en")
        ]
        yield "| " + " | ".join([after[language].format(names[task][language]), *cells]) + " |"


def _neighbour(names: Figures, language: Language) -> str:
    words = {"unseen_style": "emoji", "held_out": "held out", "photos": "photos"}
    if language == "zh":
        words = {"unseen_style": "表情符号", "held_out": "留出图片", "photos": "照片"}
    found = [f"{word} {names[split]['centroid']['share']:.2f}" for split, word in words.items() if split in names]
    joined = ("；" if language == "zh" else ", ").join(found)
    chosen = names["vectors"]["chosen"]
    chosen = VECTORS[chosen] if language == "zh" else chosen
    return NEIGHBOUR[language].format(training=names["training"], chosen=chosen, centroids=joined)


def _leaks(figures: Figures, language: Language) -> str:
    tasks = ", ".join(f"{task} (+{over:.2f})" for task, over in figures["leaks"].items())
    return (LEAKS if tasks else FALLS)[language].format(leak=LEAK, tasks=tasks)


def _sure(names: Figures, language: Language) -> str:
    wanted = names["not sure"]["wanted"]
    at = names["not sure"]["at"][f"{wanted:.2f}"]
    covers = {f"cover_{asked}": at[asked]["photos"]["coverage"] for asked in ("zh", "en") if "photos" in at[asked]}
    covers = covers or {"cover_zh": 0, "cover_en": 0}
    return SURE[language].format(zh=at["zh"]["chance"], en=at["en"]["chance"], wanted=wanted, **covers)


def _unseen(table: Figures, language: Language) -> str:
    asked = table["asked category"]
    names = {f"name_{spoken}": table[spoken]["category"] for spoken in ("zh", "en")}
    rights = {f"right_{spoken}": table[spoken]["share"] for spoken in ("zh", "en")}
    return UNSEEN[language].format(
        concepts=table["concepts"],
        n=table["zh"]["n"],
        zh=share(asked["zh"]),
        en=share(asked["en"]),
        majority=asked["en"]["majority"],
        nearest=table["nearest category"]["share"],
        **names,
        **rights,
    )


def refresh(card: str, figures: Figures, language: Language) -> str:
    """Replace the tables of a card."""
    return _between(card, "figures", block(figures, language))


def refresh_photos(card: str, figures: Figures, language: Language) -> str:
    """Replace the table of photographs of a card; `figures` are those of the photograph test."""
    return _between(card, "photographs", photo_block(figures, language))


def _between(card: str, mark: str, text: str) -> str:
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    return re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{text}\n{end}", card, flags=re.DOTALL)


def main(figures_file: str, photo_figures_file: str, folder: str) -> None:
    """Update both cards."""
    figures, photos = (json.loads(Path(file).read_text("utf-8")) for file in (figures_file, photo_figures_file))
    for language, name in CARDS.items():
        path = Path(folder) / name
        card = refresh_photos(refresh(path.read_text("utf-8"), figures, language), photos, language)
        path.write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:4])
