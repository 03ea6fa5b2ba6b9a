"""Measure a trained job on test scenes: right answers, reconstructions, drawings, CPU seconds.

Reading models answer questions about the scenes. Reconstructions and drawings are judged by an independent model, the
packed one: it answers the same questions about them and about the original images.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import visualglm
from visualglm.conversation import VisualGLM
from visualglm.evaluation.answer_matching import is_right
from visualglm.evaluation.batch_answering import AskedQuestion, answer_all, batched, encode
from visualglm.evaluation.confidence import fraction_of
from visualglm.evaluation.encoded_scenes import questions
from visualglm.evaluation.scenes.scene import Scene, scene_of
from visualglm.evaluation.scenes.split_seeds import Split, seeds
from visualglm.hardware.machine_report import timed_alone

from ..evaluation.scene_eval import entry_of
from .config import StudyConfig
from .drawing import sample_codes
from .scene_batches import LANGUAGE, drawing_request, images_of, pixels_of, render
from .trainer import StudyTrainer
from .vq_tokenizer import VQTokenizer

BATCH = 16
SHOWN = 8
"""Images in the file of a job's pictures."""
PICTURES, ORIGINALS = "pictures.png", "originals.png"


def test_scenes(plan: StudyConfig, count: int) -> list[Scene]:
    """Generate the first `count` test scenes."""
    return [scene_of(seed, plan.most) for seed in islice(seeds(Split.TEST), count)]


def ask_about(plan: StudyConfig, scenes: Sequence[Scene]) -> list[AskedQuestion]:
    """Ask each of the study's tasks once about every scene that allows it."""
    return [
        asked for asked in questions(scenes, tuple(dict.fromkeys(plan.tasks))) if asked.exchange.language == LANGUAGE
    ]


@torch.no_grad()
def measure_reading(run: StudyTrainer) -> dict[str, Any]:
    """Measure the answers of a reading model, also about other scenes' images, per task and in all."""
    plan, processor = run.plan, run.prompts.processor
    scenes = test_scenes(plan, plan.test_scenes)
    pixel_values, asked = pixels_of(scenes, processor), ask_about(plan, scenes)
    run.model.eval().set_attn_implementation("sdpa")
    parts = pixel_values.split(BATCH)
    embeds, image_seconds = timed_alone(lambda: torch.cat([run.model.encode_images(part) for part in parts]))
    model = VisualGLM(run.model, processor)
    answered, seconds = timed_alone(answer_all, model, asked, embeds)
    shuffled = answer_all(model, asked, embeds, shift=1)
    tasks = dict.fromkeys(one.exchange.task for one in answered)
    return {
        "right": share_right(answered),
        "shuffled": share_right(shuffled),
        "tasks": {task: entry_of([one for one in answered if one.exchange.task == task]) for task in tasks},
        "image_seconds": image_seconds / len(scenes),
        "question_seconds": seconds / len(asked),
        "parameters": _parameters(run),
    }


def _parameters(run: StudyTrainer) -> dict[str, int]:
    """Count the weights of the language model, of what is trained in front of it, and of the frozen encoder."""
    trained = [weight for weight in run.model.image_encoder.parameters() if weight.requires_grad]
    return {
        "language": count_weights(run.model.transformer),
        "image": sum(weight.numel() for weight in trained),
        "frozen": count_weights(run.frozen),
    }


def count_weights(module: nn.Module) -> int:
    """Return the number of parameters of a module."""
    return sum(weight.numel() for weight in module.parameters())


def share_right(answered: Sequence[AskedQuestion]) -> dict[str, float | int]:
    """Return the fraction of right answers with its interval."""
    return fraction_of([is_right(one.exchange, one.answer) for one in answered])


@torch.no_grad()
def measure_tokenizer(run: StudyTrainer) -> dict[str, Any]:
    """Measure what a tokenizer loses: squared error of the pixels (0 to 1), and answers about its reconstructions."""
    plan, processor, tokenizer = run.plan, run.prompts.processor, _tokenizer(run)
    scenes = test_scenes(plan, plan.judged_scenes)
    originals = [render(scene, processor) for scene in scenes]
    codes = tokenizer.encode(pixels_of(scenes, processor))
    reconstructed = images_of(tokenizer.decode(codes), processor)
    save_strip(originals, run.folder / ORIGINALS)
    save_strip(reconstructed, run.folder / PICTURES)
    before, after = (np.stack([np.asarray(image) for image in images]) / 255 for images in (originals, reconstructed))
    return {
        "squared_error": float(((before - after) ** 2).mean()),
        "used_codes": len(codes.unique()),
        "original": judge(plan, scenes, originals),
        "right": judge(plan, scenes, reconstructed),
        "parameters": count_weights(tokenizer),
    }


@torch.no_grad()
def measure_drawing(run: StudyTrainer) -> dict[str, Any]:
    """Draw test scenes from their descriptions, and judge the drawings."""
    plan, tokenizer = run.plan, _tokenizer(run)
    scenes = test_scenes(plan, plan.judged_scenes)
    run.model.eval().set_attn_implementation("sdpa")
    codes, seconds = timed_alone(_draw, run, scenes)
    drawn = images_of(tokenizer.decode(codes), run.prompts.processor)
    save_strip(drawn, run.folder / PICTURES)
    return {"right": judge(plan, scenes, drawn), "picture_seconds": seconds / len(scenes)}


def _draw(run: StudyTrainer, scenes: Sequence[Scene]) -> Tensor:
    first, tokens = len(run.tokenizer.sp_model), run.model.config.image_length
    words = range(first, first + run.plan.codebook)
    prompts = [run.prompts.prompt(drawing_request(scene)) for scene in scenes]
    parts = enumerate(batched(prompts, BATCH))
    return torch.cat([sample_codes(run.model, part, tokens, words, seed) for seed, part in parts])


def _tokenizer(run: StudyTrainer) -> VQTokenizer:
    assert run.vq is not None
    return run.vq.eval()


@cache
def packed() -> VisualGLM:
    """Open the packed model, which judges images."""
    return visualglm.load(device="cpu")


def judge(plan: StudyConfig, scenes: Sequence[Scene], images: Sequence[Image.Image]) -> dict[str, float | int]:
    """Return the packed model's fraction of right answers about images that should show these scenes."""
    return share_right(answer_all(packed(), ask_about(plan, scenes), encode(packed(), images).embeds))


def save_strip(images: Sequence[Image.Image], path: Path) -> None:
    """Save the first images side by side."""
    Image.fromarray(np.concatenate([np.asarray(image) for image in images[:SHOWN]], axis=1)).save(path)


def read_log(folder: Path) -> dict[str, Any]:
    """Read a run's log: `curve`, points (step, mean loss since the point before), and `seconds_per_step` if known.

    Steps that were repeated after a kill count once.
    """
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    times = {key: line[key] for line in lines for key in ("seconds_per_step",) if key in line}
    return {"curve": sorted({line["step"]: line["loss"] for line in lines if "loss" in line}.items()), **times}
