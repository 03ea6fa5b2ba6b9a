"""What 8 and 4 bits cost in quality (`make bench-quantization`).

The packed model, or `--model`, answers the questions of its evaluation about drawn scenes it has never seen, in float32
from its own weights and then in every quantized form. Per form: the share of answers that did not change, the share
that is right, and, reading the true answers, the perplexity and how far the logits moved. Stores
`benchmarks/results/quantization_quality.json`.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, origin, store
from torch import Tensor

import visualglm
from visualglm.checkpoints import convert, quantization_plan
from visualglm.conversation import VisualGLM
from visualglm.evaluation.answer_matching import is_right
from visualglm.evaluation.answering import AskedQuestion, answer_all, prompt_ids
from visualglm.evaluation.scene_questions import drawn_scenes, encode_scenes, questions
from visualglm.evaluation.scenes import Split, render_scene

ALL = {"quantize_vision": 8, "quantize_vocabulary": 8}
FORMS: dict[str, dict[str, Any]] = {
    "as stored": {},
    "8-bit": {"quantize": 8},
    "8-bit, everything": {"quantize": 8, **ALL},
    "4-bit": {"quantize": 4},
    "4-bit, calibrated": {"calibrate": 32},
    "4-bit, the rest 8-bit": {"quantize": 4, **ALL},
}
BATCH = 64


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--scenes", type=int, default=40, help="drawn scenes; about 40 questions each")
    parser.add_argument("--questions", type=int, default=1000, help="of them, evenly chosen")
    parser.add_argument("--output", type=Path, default=RESULTS / "quantization_quality.json")
    options = parser.parse_args()
    forms = measure(options.model, options.scenes, options.questions)
    store(options.output, {**origin(__file__), "model": options.model or "visualglm-mini", "forms": forms})


def measure(name: str | None, count: int, most: int) -> dict[str, Any]:
    """Every form's figures; the first form is what the others are compared with."""
    scenes = drawn_scenes(count)
    asked = questions(scenes)
    asked = asked[:: max(1, len(asked) // most)][:most]
    answers: list[str] = []
    wanted: list[Tensor] = []
    found: dict[str, Any] = {}
    for form, options in FORMS.items():
        model = calibrated(name, **options) if "calibrate" in options else visualglm.load(name, device="cpu", **options)
        images = encode_scenes(model, scenes)
        said = answer_all(model, asked, images)
        logits, nats = read_truth(model, asked, images)
        if not answers:
            answers, wanted = [a.answer for a in said], logits
        same = sum(a.answer == b for a, b in zip(said, answers, strict=True))
        right = sum(is_right(a.exchange, a.answer) for a in said)
        found[form] = {
            "questions": len(said),
            "unchanged": round(same / len(said), 4),
            "right": round(right / len(said), 4),
            "perplexity": round(math.exp(nats), 4),
            "logit_distance": round(distance(logits, wanted), 4),
            "weights_mb": round(size(model) / 1e6, 2),
        }
        print(form, found[form], flush=True)
    return found


def calibrated(name: str | None, calibrate: int) -> VisualGLM:
    """In 4 bits whose scales were chosen on so many training scenes."""
    images = [render_scene(scene) for scene in drawn_scenes(calibrate, Split.TRAIN)]
    with tempfile.TemporaryDirectory() as folder:
        source, plan = name or visualglm.packed_model(), quantization_plan(4)
        made = convert(source, Path(folder) / "q", quantize=plan, calibrate=images, with_fingerprint=False)
        return visualglm.load(made, device="cpu")


@torch.no_grad()
def read_truth(model: VisualGLM, asked: list[AskedQuestion], images: Tensor) -> tuple[list[Tensor], float]:
    """Logits [tokens, vocabulary] at each token of each true answer, and the mean of its negative log probability."""
    config, logits, nats = model.model.config, [], []
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        prompts = [prompt_ids(model, a.exchange) for a in part]
        truths = [
            [*model.tokenizer.encode(a.exchange.answer, add_special_tokens=False), config.eos_token_id] for a in part
        ]
        longest = max(len(p) + len(t) for p, t in zip(prompts, truths, strict=True))
        ids = torch.full((len(part), longest), config.pad_token_id)
        for row, prompt, truth in zip(ids, prompts, truths, strict=True):
            row[longest - len(prompt) - len(truth) :] = torch.tensor(prompt + truth)
        shown = images[torch.tensor([a.image for a in part])]
        read = model.model(ids, attention_mask=(ids != config.pad_token_id).long(), image_embeds=shown).logits.float()
        for row, numbers, truth in zip(ids, read, truths, strict=True):
            kept = numbers[-len(truth) - 1 : -1]
            logits.append(kept)
            nats.append(-kept.log_softmax(-1).gather(-1, row[-len(truth) :, None])[:, 0])
    return logits, float(torch.cat(nats).mean())


def distance(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Relative, over all tokens, each position's mean taken off (it changes no probability)."""
    one, other = (torch.cat([rows - rows.mean(-1, keepdim=True) for rows in side]) for side in (found, wanted))
    return float((one - other).norm() / other.norm())


def size(model: VisualGLM) -> int:
    """Bytes of the weights, tied ones once; what is not quantized counts as the 16 bits that the file has."""
    tensors = {tensor.data_ptr(): tensor for tensor in model.model.state_dict().values()}.values()
    return sum(t.numel() * (2 if t.dtype == torch.float32 and t.dim() > 1 else t.element_size()) for t in tensors)


if __name__ == "__main__":
    main()
