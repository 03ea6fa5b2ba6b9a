"""evaluation/card: the figures of `figures.json` as tables in a model card, between two marks.

Run: `python -m visualglm.evaluation.card recipes/mini/figures.json visualglm/mini`. What stands between
`<!-- figures -->` and `<!-- /figures -->` is written anew; the rest of the card is left alone.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from ..scenes.vocabulary import Language

CARDS: dict[Language, str] = {"en": "MODEL_CARD.md", "zh": "MODEL_CARD_zh.md"}
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
NAMES: dict[str, dict[Language, str]] = {
    "name": {"en": "name of an object", "zh": "说出物体名称"},
    "colour": {"en": "colour of an object", "zh": "物体的颜色"},
    "total": {"en": "how many objects (1-4)", "zh": "物体总数（1-4）"},
    "count": {"en": "how many of one kind (0-4)", "zh": "某类物体的数量（0-4）"},
    "where": {"en": "where an object is (9 places)", "zh": "物体的位置（9 个方位）"},
    "relation": {"en": "left/right of, above/below", "zh": "两物体的左右、上下关系"},
    "exists": {"en": "is there ...? (yes/no)", "zh": "有没有……（是/否）"},
    "background": {"en": "background (11 kinds)", "zh": "背景（11 种）"},
    "follow-up": {"en": "second turn, 'it' (colour or place)", "zh": "追问“它”（颜色或位置）"},
    "shapes": {"en": "which shapes, all right", "zh": "有哪些形状（全对）"},
    "list": {"en": "list of all objects, all right", "zh": "列出全部物体（全对）"},
    "describe": {"en": "whole description, all right", "zh": "完整描述（全对）"},
    "absent": {"en": "notices that the object is not there", "zh": "指出物体不存在"},
    "off topic": {"en": "says 'I am not sure' where it must", "zh": "无法得知时回答“不确定”"},
}
HEADS: dict[Language, str] = {
    "en": "| task | Chinese | English | commonest answer alone | another picture shown |\n|---|---|---|---|---|",
    "zh": "| 任务 | 中文提问 | 英文提问 | 只答最常见答案 | 换成别的图片 |\n|---|---|---|---|---|",
}
NOTES: dict[Language, str] = {
    "en": "{scenes} test scenes (drawn {date}), {questions} questions, greedy decoding; share right [95 % Wilson "
    "interval], n. Existence, balanced accuracy: {zh:.2f} (Chinese), {en:.2f} (English). The Chinese and the English "
    "answer to the same question state the same fact in {same} of cases. Weights sha256 `{sha}`.",
    "zh": "{scenes} 个测试场景（绘制于 {date}），{questions} 个问题，贪心解码；数字为正确率 [95% Wilson 区间]、n。"
    "“有没有”的平衡准确率：中文 {zh:.2f}，英文 {en:.2f}。同一问题中英文回答陈述同一事实的比例：{same}。"
    "权重 sha256 `{sha}`。",
}


def table(figures: dict[str, Any], language: Language) -> str:
    """The tasks as a Markdown table, with a sentence on how they were measured."""
    lines = [HEADS[language]]
    for task, names in NAMES.items():
        if task in figures["tasks"]:
            rows = figures["tasks"][task]
            cells = [_share(rows[asked]) for asked in ("zh", "en")]
            majority = max(rows[asked]["majority"] for asked in ("zh", "en"))
            shuffled = sum(rows[asked]["shuffled"] for asked in ("zh", "en")) / 2
            lines.append(f"| {names[language]} | {cells[0]} | {cells[1]} | {majority:.2f} | {shuffled:.2f} |")
    exists = figures["tasks"]["exists"]
    note = NOTES[language].format(
        scenes=figures["scenes"],
        date=figures["date"],
        questions=figures["questions"],
        zh=exists["zh"]["balanced"],
        en=exists["en"]["balanced"],
        same=_share(figures["tasks"]["zh = en"]),
        sha=figures["weights_sha256"],
    )
    return "\n".join([*lines, "", note])


def _share(entry: dict[str, Any]) -> str:
    return f"{entry['share']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}], n = {entry['n']}"


def refresh(card: str, figures: dict[str, Any], language: Language) -> str:
    """The card with its tables written anew."""
    pattern = re.compile(f"{BEGIN}.*?{END}", re.DOTALL)
    return pattern.sub(lambda _: f"{BEGIN}\n{table(figures, language)}\n{END}", card)


def main(figures_file: str, folder: str) -> None:
    """Writes both cards."""
    figures = json.loads(Path(figures_file).read_text(encoding="utf-8"))
    for language, name in CARDS.items():
        path = Path(folder) / name
        path.write_text(refresh(path.read_text(encoding="utf-8"), figures, language), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:3])
