"""Draws the data of the few-shot example: images, and what upstream's example asks: what is in their background?

The answers are sentences that no model was taught, so a model that was not fine-tuned has none of them right. Training
and held-out images come from different seeds. So that the model does not answer everything with a background, a third
of what is learned are other questions, with the answers that it gives already.

Run: python examples/finetune_background/draw.py runs/background
"""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import visualglm
from visualglm.evaluation.scenes.render import render_scene
from visualglm.evaluation.scenes.scene import scene_of
from visualglm.evaluation.scenes.split_seeds import Split, seeds

QUESTION = "这张图片的背景里有什么内容？"
ANSWERS = {
    "white": "茫茫的白雪",
    "black": "没有开灯的屋子",
    "blue": "晴朗的蓝天",
    "green": "绿色的窗帘",
    "yellow": "金黄的麦田",
    "pink": "傍晚的彩霞",
    "grass": "春天的草原",
    "sea": "平静的大海",
    "night sky": "满天的星星",
    "sand": "海边的沙滩",
}
TRAINED, HELD_OUT = 12, 4
KEPT_QUESTIONS = (
    *("描述这张图片。", "这张图片里有什么？", "一共有几个物体？"),
    *("Describe this picture.", "What is in the picture?", "How many objects are there?"),
)
KEPT_WORDS = ("你是谁？", "谢谢。", "今天天气怎么样？", "Hello!", "Who are you?", "What is two and two?")
KEPT_IMAGES = 8
"""A question is asked about so many images of its own."""
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 48}
START, OTHERS = 500_000_000, 600_000_000
"""The seeds from the first on were never used to train the packed model."""


def draw(folder: Path, split: Split, each: int) -> list[dict[str, str]]:
    """Write `each` images of every background; return upstream's rows."""
    drawn: Counter[str] = Counter()
    rows = []
    for seed in seeds(split, START):
        scene = scene_of(seed, most=3)
        name = scene.background.key
        if name in ANSWERS and drawn[name] < each:
            file = folder / f"{split.name.lower()}-{seed}.png"
            render_scene(scene).save(file)
            rows.append({"img": file.name, "prompt": QUESTION, "label": f"这张图片的背景是{ANSWERS[name]}。"})
            drawn[name] += 1
        if sum(drawn.values()) == each * len(ANSWERS):
            return rows
    raise RuntimeError("the seeds ended before the pictures were drawn")


def kept(folder: Path, model: visualglm.VisualGLM) -> list[dict[str, str]]:
    """Other questions about other images, and about none, with the model's own greedy answers."""
    rows = [{"prompt": question, "label": model.ask(None, question, **GREEDY).text} for question in KEPT_WORDS]
    others = seeds(Split.TRAIN, OTHERS)
    for question in KEPT_QUESTIONS:
        images = []
        for seed in itertools.islice(others, KEPT_IMAGES):
            images.append(folder / f"other-{seed}.png")
            render_scene(scene_of(seed, most=3)).save(images[-1])
        answers = model.caption(images, question, **GREEDY)
        rows += [
            {"img": image.name, "prompt": question, "label": answer.text}
            for image, answer in zip(images, answers, strict=True)
        ]
    return [row for row in rows if row["label"].strip()]


def main(folder: Path) -> None:
    """Write train.json, test.json and their images."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, split, each in (("train", Split.TRAIN, TRAINED), ("test", Split.TEST, HELD_OUT)):
        rows = draw(folder, split, each)
        if split is Split.TRAIN:
            rows += kept(folder, visualglm.load(device="cpu"))
        text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
        print(f"{folder / name}.json: {len(rows)} rows")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/background"))
