"""Export a trained model to the packed model's folder.

Writes float16 weights, greedy defaults and the vocabulary. Run: `python -m visualglm_lab.training.export
runs/mini/model visualglm/mini`.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from transformers import GenerationConfig

from visualglm.checkpoints import fingerprint, open_checkpoint
from visualglm.model import VisualGLMForConditionalGeneration

LONGEST_ANSWER = 80
LONGEST_REPEAT = 12  # tokens; right answers about scenes of up to ten objects repeat seven at most
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
    """Write `config.json`, `generation_config.json` and `model.safetensors` in float16."""
    model = VisualGLMForConditionalGeneration.from_pretrained(str(source), dtype=torch.float32)
    config = model.config
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=LONGEST_ANSWER,
        no_repeat_ngram_size=LONGEST_REPEAT,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    model.half().save_pretrained(target)
    (target / "model.safetensors").chmod(0o644)  # written for its owner alone otherwise


def pack_tokenizer(source: Path, target: Path) -> None:
    """Copy the run's vocabulary as `ice_text.model`, and write `tokenizer_config.json`."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / "ice_text.model", target / "ice_text.model")
    (target / "tokenizer_config.json").write_text(json.dumps(TOKENIZER, indent=2) + "\n", encoding="utf-8")


def main(source: str, target: str) -> None:
    """Write everything except cards and sample images, and the fingerprint that `visualglm doctor` compares."""
    folder = Path(target)
    pack_weights(Path(source), folder)
    pack_tokenizer(Path(source), folder)
    fingerprint.write_fingerprint(folder, fingerprint.record(open_checkpoint(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:3])
