"""training/pack: a trained model -> the folder that ships: float16 weights, greedy defaults, vocabulary, samples.

Run: `python -m visualglm.training.pack runs/mini/model visualglm/mini`. Knows nothing about training.
"""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path

import torch
from transformers import GenerationConfig

from ..checkpoints import golden, open_checkpoint
from ..model import VisualGLMForConditionalGeneration
from ..scenes.compose import picture_of, scene_of
from ..scenes.seeds import Split, seeds
from .vocabulary import compose_vocabulary, normal_pieces

LONGEST_ANSWER = 80
SAMPLE_SIZE = 448
SAMPLES = {"star": 13, "moon": 19, "circles": 34, "house": 57}  # name -> place among the sample seeds
TOKENIZER = {
    "name_or_path": "visualglm-mini",
    "bos_token": "<sop>",
    "eos_token": "<eop>",
    "end_token": "</s>",
    "gmask_token": "[gMASK]",
    "mask_token": "[MASK]",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "remove_space": False,
    "do_lower_case": False,
    "tokenizer_class": "ChatGLMTokenizer",
    "num_image_tokens": 0,
}


def pack_weights(source: Path, target: Path) -> None:
    """`config.json`, `generation_config.json` and `model.safetensors` in float16."""
    model = VisualGLMForConditionalGeneration.from_pretrained(str(source), dtype=torch.float32)
    config = model.config
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=LONGEST_ANSWER,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    model.half().save_pretrained(target)
    (target / "model.safetensors").chmod(0o644)  # written for its owner alone otherwise


def pack_tokenizer(target: Path) -> None:
    """`ice_text.model` (the same bytes every time) and `tokenizer_config.json`."""
    target.mkdir(parents=True, exist_ok=True)
    (target / "ice_text.model").write_bytes(compose_vocabulary(normal_pieces()))
    (target / "tokenizer_config.json").write_text(json.dumps(TOKENIZER, indent=2) + "\n", encoding="utf-8")


def pack_samples(target: Path) -> None:
    """The bundled pictures, drawn from seeds that nothing else uses."""
    folder = target / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    numbers = list(islice(seeds(Split.SAMPLES), 1 + max(SAMPLES.values())))
    for name, place in SAMPLES.items():
        picture_of(scene_of(numbers[place]), (SAMPLE_SIZE, SAMPLE_SIZE)).save(folder / f"{name}.png", optimize=True)


def main(source: str, target: str) -> None:
    """Packs everything but the cards, and what `visualglm doctor` compares.

    The vocabulary is made anew, byte for byte as for training.
    """
    folder = Path(target)
    pack_weights(Path(source), folder)
    pack_tokenizer(folder)
    pack_samples(folder)
    golden.write(folder, golden.record(open_checkpoint(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:3])
