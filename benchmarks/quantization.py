"""Quality of 8-bit and 4-bit weights (`make bench-quantization`).

The packed model, or `--model`, answers the questions of its evaluation about unseen drawn scenes, in float32 from its
own weights and then in every quantized form. Per form: the fraction of unchanged answers, the fraction of right ones,
and on the true answers the perplexity and the distance of the logits. Stores
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
from visualglm.evaluation.batch_answering import AskedQuestion, answer_all, prompt_ids
from visualglm.evaluation.encoded_scenes import drawn_scenes, encode_scenes, questions
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
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--scenes", type=int, default=40, help="drawn scenes; about 40 questions each")
    parser.add_argument("--questions", type=int, default=1000, help="number of questions, evenly chosen")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "quantization_quality.json")
    options = parser.parse_args()
    forms = measure(options.model, options.scenes, options.questions)
    store(options.output, {**origin(__file__), "model": options.model or "visualglm-mini", "forms": forms})


def measure(name: str | None, count: int, most: int) -> dict[str, Any]:
    """Return every form's figures; the others are compared with the first."""
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
    """Quantize to 4 bits with scales calibrated on that many training scenes."""
    images = [render_scene(scene) for scene in drawn_scenes(calibrate, Split.TRAIN)]
    with tempfile.TemporaryDirectory() as folder:
        source, plan = name or visualglm.packed_model(), quantization_plan(4)
        made = convert(source, Path(folder) / "q", quantize=plan, calibrate=images, with_fingerprint=False)
        return visualglm.load(made, device="cpu")


@torch.no_grad()
def read_truth(model: VisualGLM, asked: list[AskedQuestion], images: Tensor) -> tuple[list[Tensor], float]:
    """Return logits [tokens, vocabulary] at each token of each true answer, and the mean negative log probability."""
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
    """Return the relative distance over all tokens, less each position's mean (which changes no probability)."""
    one, other = (torch.cat([rows - rows.mean(-1, keepdim=True) for rows in side]) for side in (found, wanted))
    return float((one - other).norm() / other.norm())


def size(model: VisualGLM) -> int:
    """Return the bytes of the weights, tied ones once; unquantized ones count as the file's 16 bits."""
    tensors = {tensor.data_ptr(): tensor for tensor in model.model.state_dict().values()}.values()
    return sum(t.numel() * (2 if t.dtype == torch.float32 and t.dim() > 1 else t.element_size()) for t in tensors)


if __name__ == "__main__":
    main()
