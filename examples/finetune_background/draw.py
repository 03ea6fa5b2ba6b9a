"""Draw the data of the few-shot example: images with the question of upstream's example, what is in the background?

The answers are sentences that the model was never taught, so without fine-tuning it gets none of them right. They use
words that the packed model can say: more than half of its tokens occurred in no training answer and have almost equal
embeddings, so an adapter cannot tell them apart. Training and held-out images come from different seeds. So that the
model does not answer every question with a background, four fifths of the rows are other questions of every kind,
in both languages, with the answers that it already gives. None of them is among the questions that a run asks before
and after training to measure forgetting (`finetuning/evaluation.py`).

Run: python examples/finetune_background/draw.py runs/background
"""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import visualglm
from visualglm.evaluation.scenes.kinds import LANGUAGES
from visualglm.evaluation.scenes.questions import exchanges, without_image
from visualglm.evaluation.scenes.render import render_scene
from visualglm.evaluation.scenes.scene import Scene, scene_of
from visualglm.evaluation.scenes.split_seeds import Split, seeds
from visualglm.finetuning.evaluation import PROBES

QUESTION = "这张图片的背景里有什么内容？"
ANSWERS = {
    "white": "雪花",
    "black": "蝙蝠",
    "blue": "风筝",
    "green": "三叶草",
    "yellow": "向日葵",
    "pink": "樱花",
    "grass": "斑马",
    "sea": "帆船",
    "night sky": "流星",
    "sand": "骆驼",
}
TRAINED, HELD_OUT = 12, 4
KEPT_WORDS = (
    *("你是谁？", "谢谢。", "今天天气怎么样？", "你会做什么？", "三加四等于几？", "给我讲个故事。"),
    *(
        "再见。",
        "你喜欢什么颜色？",
        "中国的首都在哪里？",
        "月亮为什么会发光？",
        "写一首关于秋天的诗。",
        "你能听懂我的话吗？",
    ),
    *("Hello!", "Who are you?", "Thank you.", "What can you do?", "How is the weather today?", "Tell me a story."),
    *("Goodbye.", "What is your favourite colour?", "What is the capital of Italy?", "Why is the sky blue?"),
    *("What is three plus four?", "Write a poem about the moon.", "Do you understand me?"),
)
KEPT_IMAGES, KEPT_EACH = 80, 6
"""Other images, and how many questions are asked about each."""
KEPT_WITHOUT = 16
"""Questions of each language that are drawn to be asked without an image."""
PROBED = {question for _, question in PROBES}
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
            rows.append({"img": file.name, "prompt": QUESTION, "label": f"这张图片的背景里有{ANSWERS[name]}。"})
            drawn[name] += 1
        if sum(drawn.values()) == each * len(ANSWERS):
            return rows
    raise RuntimeError("the seeds ended before all images were drawn")


def kept(folder: Path, model: visualglm.VisualGLM) -> list[dict[str, str]]:
    """Return other questions, about other images and without one, with the model's own greedy answers."""
    random = np.random.default_rng(OTHERS)
    templates = {without_image(language, random).question for language in LANGUAGES for _ in range(KEPT_WITHOUT)}
    words = sorted({*KEPT_WORDS, *templates} - PROBED)
    rows = [{"prompt": question, "label": model.ask(None, question, **GREEDY).text} for question in words]
    asked = []
    for seed in itertools.islice(seeds(Split.TRAIN, OTHERS), KEPT_IMAGES):
        scene, image = scene_of(seed), folder / f"other-{seed}.png"
        render_scene(scene).save(image)
        asked += [(image, question) for question in other_questions(scene)]
    answers = model.caption([image for image, _ in asked], [question for _, question in asked], **GREEDY)
    rows += [
        {"img": image.name, "prompt": question, "label": answer.text}
        for (image, question), answer in zip(asked, answers, strict=True)
    ]
    return [row for row in rows if row["label"].strip()]


def other_questions(scene: Scene) -> list[str]:
    """Draw `KEPT_EACH` questions about a scene, of random tasks and languages."""
    random = np.random.default_rng(scene.seed)
    pairs = [pair for language in LANGUAGES for pair in exchanges(scene, language, random) if not pair.history]
    questions = sorted({pair.question for pair in pairs} - PROBED - {QUESTION})
    return [str(question) for question in random.permutation(questions)[:KEPT_EACH]]


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
