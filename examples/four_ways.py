"""One image and one question, greedily, through four interfaces: what differs, and that nothing else does.

    python examples/four_ways.py [IMAGE] [QUESTION] [--model FOLDER]

Prints each road's answer, its marks (问/答 or Q/A), its penalty rule, and the dtype of its pixels. Exit code 1 where
two roads with the same marks answered differently although pixels and penalty were made equal.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

import visualglm
from visualglm.compat import sat, sat_chat
from visualglm.preprocessing.prompt import language_of


@dataclass(frozen=True)
class Road:
    """One interface's answer, and what it does by its own."""

    name: str
    marks: str
    pixels: str
    penalty: str
    answer: str


def four_ways(folder: str, image: str, question: str) -> list[Road]:
    """Ask the question in all four ways, greedily and without a penalty, in float32."""
    opened = visualglm.load(folder, device="cpu", dtype="float32")
    model, _ = sat.VisualGLMModel.from_pretrained(folder, argparse.Namespace(device="cpu"))
    spoken = "Q/A" if language_of(question) == "en" else "问/答"
    every_id, generated = "every id, negative logits multiplied", "generated ids, every logit divided"
    greedy = {"do_sample": False, "max_length": 256}
    hugging_face, _ = opened.model.chat(opened.tokenizer, image, question, history=[], **greedy)
    conversation = opened.conversation(image).ask(question, **greedy).text
    roads = [
        Road("model.chat (HF style)", "问/答", "float32", every_id, hugging_face),
        Road("Conversation.ask", spoken, "float32", every_id, conversation),
        Road("visualglm ask", spoken, "float32", every_id, command_line(folder, image, question)),
    ]
    for marks, english in (("问/答", False), ("Q/A", True)):
        for dtype in ("float16", "float32"):
            sat_chat.PIXELS = getattr(torch, dtype)  # sat's own is float16; float32 shows that nothing else differs
            answer, _, _ = sat.chat(
                image, model, opened.tokenizer, question, [], None, 256, 0, 30, 0.95, 1.0, english=english
            )
            roads.append(Road(f"sat's chat{', english' * english}", marks, dtype, generated, answer))
    sat_chat.PIXELS = torch.float16
    return roads


def command_line(folder: str, image: str, question: str) -> str:
    """Return what `visualglm ask` prints."""
    flags = ["--model", folder, "--device", "cpu", "--dtype", "float32", "--greedy", "--max-length", "256", "--json"]
    command = [sys.executable, "-m", "visualglm", "ask", image, question, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return str(json.loads(done.stdout)["text"])


def disagreements(roads: list[Road]) -> list[str]:
    """Return the prompt marks for which ways with equal pixels gave different answers."""
    exact = [road for road in roads if road.pixels == "float32"]
    said = {marks: {road.answer for road in exact if road.marks == marks} for marks in ("问/答", "Q/A")}
    return [marks for marks, answers in said.items() if len(answers) > 1]


def main() -> None:
    """Asks and prints."""
    packed = visualglm.packed_model()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", default=str(sorted((packed / "samples").glob("*.png"))[0]))
    parser.add_argument("question", nargs="?", default="描述这张图片。")
    parser.add_argument("--model", default=str(packed))
    chosen = parser.parse_args()
    roads = four_ways(str(Path(chosen.model)), chosen.image, chosen.question)
    for road in roads:
        print(f"{road.name}\n    marks {road.marks}; pixels {road.pixels}; penalty, if one is given: {road.penalty}")
        print(f"    {road.answer}")
    print("Slots hold one id here; upstream's hold unk (0, HF) and pad (3, sat). No number depends on it.")
    apart = disagreements(roads)
    if apart:
        sys.exit(f"the same marks ({', '.join(apart)}), pixels and penalty, but not the same answer")
    print("Same marks, same pixels, same penalty: the same answer.")


if __name__ == "__main__":
    main()
