"""evaluation/scenes: how well a model answers about drawn scenes it has never seen.

Run: `python -m visualglm.evaluation.scenes --model DIR -o figures.json`. Test seeds only; every share has its n and its
95 % Wilson interval; beside each stand what the commonest answer alone would reach, and what the model reaches when it
is shown another scene's picture.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..conversation import VisualGLM, load, packed_model
from ..generation import generate_rows, generation_settings
from ..images import VisualGLMImageProcessor
from ..prompt import Turn, build_prompt
from ..scenes.compose import Scene, picture_of, scene_of
from ..scenes.dialogue import Exchange, exchange_of
from ..scenes.seeds import Split, seeds
from ..scenes.vocabulary import Language
from ..tokenizer import process_response
from .intervals import majority, share_of
from .judging import facts, is_right, stated

TASKS = (
    *("describe", "list", "name", "name by colour", "name by place", "colour", "total", "count", "where"),
    *("side", "height", "exists", "background", "follow-up", "shapes", "off topic"),
)
LANGUAGES: tuple[Language, ...] = ("zh", "en")
BATCH = 64


@dataclass(frozen=True)
class Asked:
    """One question about scene number `scene`, and what the model said."""

    scene: int
    exchange: Exchange
    answer: str = ""


def questions(scenes: Sequence[Scene], tasks: Sequence[str] = TASKS) -> list[Asked]:
    """Every task about every scene that allows it, in both languages."""
    asked = []
    for index, scene in enumerate(scenes):
        for task in tasks:
            for language in LANGUAGES:
                exchange = exchange_of(task, scene, language, np.random.default_rng(scene.seed + 3))
                asked += [Asked(index, exchange)] if exchange else []
    return asked


def encode_scenes(model: VisualGLM, scenes: Sequence[Scene]) -> Tensor:
    """The picture vectors of every scene, [scenes, image_length, hidden]."""
    side = model.model.config.vision.image_size
    images = VisualGLMImageProcessor(size={"height": side, "width": side})
    parts = []
    with torch.no_grad():
        for start in range(0, len(scenes), BATCH):
            pictures = [picture_of(scene) for scene in scenes[start : start + BATCH]]
            pixel_values = images(pictures, return_tensors="pt")["pixel_values"]
            parts.append(model.model.encode_images(pixel_values.to(model.model.device, model.model.dtype)))
    return torch.cat(parts)


def answer_all(model: VisualGLM, asked: Sequence[Asked], pictures: Tensor, shift: int = 0) -> list[Asked]:
    """Greedy answers to every question; `shift` shows each the picture of a later scene instead (a control)."""
    rows = [(prompt_ids(model, a.exchange), a) for a in asked]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    settings = generation_settings(model.model, do_sample=False)
    answers = [""] * len(rows)
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        shown = torch.tensor([(rows[i][1].scene + shift) % len(pictures) for i in part])
        said = generate_rows(model.model, [rows[i][0] for i in part], pictures[shown], settings)
        for index, ids in zip(part, said, strict=True):
            kept = [i for i in ids if i not in settings.eos]
            answers[index] = process_response(_tokenizer(model).decode(kept))
    return [Asked(a.scene, a.exchange, answer) for a, answer in zip(asked, answers, strict=True)]


def prompt_ids(model: VisualGLM, exchange: Exchange) -> list[int]:
    """The prompt of an exchange; its picture stands before the first turn."""
    turns = [Turn(question, answer) for question, answer in exchange.history] + [Turn(exchange.question)]
    turns[0] = Turn(turns[0].question, turns[0].answer, pictures=1)
    config = model.model.config
    return build_prompt(
        _tokenizer(model),
        turns,
        language=exchange.language,
        image_token_id=int(config.image_token_id or 0),
        image_length=config.image_length,
    ).input_ids


def _tokenizer(model: VisualGLM) -> Any:
    return model.tokenizer


def figures(asked: Sequence[Asked], shuffled: Sequence[Asked]) -> dict[str, Any]:
    """Per task and language: n, share, interval, majority, shuffled-picture control."""
    table: dict[str, Any] = {}
    for task in dict.fromkeys(a.exchange.task for a in asked):
        for language in LANGUAGES:
            rows = [a for a in asked if (a.exchange.task, a.exchange.language) == (task, language)]
            other = [a for a in shuffled if (a.exchange.task, a.exchange.language) == (task, language)]
            entry: dict[str, Any] = share_of([is_right(a.exchange, a.answer) for a in rows])
            entry["majority"] = majority([a.exchange.truth for a in rows])
            entry["shuffled"] = share_of([is_right(a.exchange, a.answer) for a in other])["share"]
            if task == "exists":
                entry |= _balance(rows)
            table.setdefault(task, {})[language] = entry
    table["zh = en"] = _agreement(asked)
    return table


def _balance(rows: Sequence[Asked]) -> dict[str, Any]:
    """Existence: the shares of right yes and right no, and their mean."""
    sides = {}
    for side in ("yes", "no"):
        sides[side] = share_of([is_right(a.exchange, a.answer) for a in rows if a.exchange.truth == side])
    return {**sides, "balanced": round((sides["yes"]["share"] + sides["no"]["share"]) / 2, 4)}


def _agreement(asked: Sequence[Asked]) -> dict[str, Any]:
    """How often the Chinese and the English answer to the same question state the same fact."""
    pairs: dict[tuple[int, str], dict[Language, int]] = {}
    for a in asked:
        task, language = a.exchange.task, a.exchange.language
        if task in ("total", "background") or (task == "name" and a.exchange.question and not a.exchange.history):
            fact = stated(task, language, a.answer)
            options = facts(task, language)
            pairs.setdefault((a.scene, task), {})[language] = options.index(fact) if fact in options else -1
    both = [p["zh"] == p["en"] != -1 for p in pairs.values() if len(p) == 2]
    return share_of(both)


def evaluate(folder: Path, count: int, split: Split = Split.TEST) -> dict[str, Any]:
    """The figures of the model in a folder on `count` scenes."""
    model = load(folder)
    scenes = [scene_of(seed) for seed in islice(seeds(split), count)]
    pictures = encode_scenes(model, scenes)
    asked = questions(scenes)
    started = time.perf_counter()
    answered = answer_all(model, asked, pictures)
    seconds = time.perf_counter() - started
    return {
        "weights_sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "scenes": len(scenes),
        "split": split.name.lower(),
        "questions": len(asked),
        "seconds": round(seconds, 1),
        "machine": {"processor": platform.machine(), "torch": torch.__version__, "threads": torch.get_num_threads()},
        "date": time.strftime("%Y-%m-%d"),
        "tasks": figures(answered, answer_all(model, asked, pictures, shift=1)),
        "wrong": _wrong(answered),
    }


def _wrong(answered: Sequence[Asked], each: int = 4) -> list[dict[str, Any]]:
    """The first wrong answers of every task and language."""
    shown: dict[tuple[str, Language], list[dict[str, Any]]] = {}
    for a in answered:
        if not is_right(a.exchange, a.answer):
            shown.setdefault((a.exchange.task, a.exchange.language), []).append(_shown(a))
    return [entry for entries in shown.values() for entry in entries[:each]]


def _shown(asked: Asked) -> dict[str, Any]:
    exchange = asked.exchange
    return {
        "scene": asked.scene,
        "task": exchange.task,
        "question": exchange.question,
        "truth": exchange.answer,
        "answer": asked.answer,
    }


def main(arguments: Sequence[str]) -> None:
    """Writes the figures and prints a table."""
    parser = argparse.ArgumentParser(description="How well a model answers about drawn scenes it has never seen.")
    parser.add_argument("--model", type=Path, default=packed_model(), help="folder of the model; the packed one")
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--split", choices=["test", "validation"], default="test")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args(arguments)
    result = evaluate(options.model, options.scenes, Split[options.split.upper()])
    result["command"] = "python -m visualglm.evaluation.scenes " + " ".join(arguments)
    for task, row in result["tasks"].items():
        print(f"{task:12}", json.dumps(row, ensure_ascii=False))
    if options.output:
        options.output.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
