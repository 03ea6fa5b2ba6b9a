"""Ask one question about an image through four interfaces, greedily, and show what differs between them.

    python examples/four_ways.py [IMAGE] [QUESTION] [--model FOLDER]

Prints each interface's answer, its prompt marks (问/答 or Q/A), its penalty rule, and the dtype of its pixels. The exit
code is 1 if two interfaces with the same marks, pixels and penalty answered differently.
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
class InterfaceAnswer:
    """An interface's answer, and the settings that the interface chooses itself."""

    name: str
    marks: str
    pixels: str
    penalty: str
    text: str


def four_ways(folder: str, image: str, question: str) -> list[InterfaceAnswer]:
    """Ask through all four interfaces, greedily and without a penalty, in float32."""
    opened = visualglm.load(folder, device="cpu", dtype="float32")
    model, _ = sat.VisualGLMModel.from_pretrained(folder, argparse.Namespace(device="cpu"))
    spoken = "Q/A" if language_of(question) == "en" else "问/答"
    every_id, generated = "every id, negative logits multiplied", "generated ids, every logit divided"
    greedy = {"do_sample": False, "max_length": 256}
    hugging_face, _ = opened.model.chat(opened.tokenizer, image, question, history=[], **greedy)
    conversation = opened.conversation(image).ask(question, **greedy).text
    answers = [
        InterfaceAnswer("model.chat (HF style)", "问/答", "float32", every_id, hugging_face),
        InterfaceAnswer("Conversation.ask", spoken, "float32", every_id, conversation),
        InterfaceAnswer("visualglm ask", spoken, "float32", every_id, command_line(folder, image, question)),
    ]
    for marks, english in (("问/答", False), ("Q/A", True)):
        for dtype in ("float16", "float32"):
            sat_chat.PIXELS = getattr(torch, dtype)  # sat's own is float16; float32 shows that nothing else differs
            answer, _, _ = sat.chat(
                image, model, opened.tokenizer, question, [], None, 256, 0, 30, 0.95, 1.0, english=english
            )
            answers.append(InterfaceAnswer(f"sat's chat{', english' * english}", marks, dtype, generated, answer))
    sat_chat.PIXELS = torch.float16
    return answers


def command_line(folder: str, image: str, question: str) -> str:
    """Return what `visualglm ask` prints."""
    flags = ["--model", folder, "--device", "cpu", "--dtype", "float32", "--greedy", "--max-length", "256", "--json"]
    command = [sys.executable, "-m", "visualglm", "ask", image, question, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return str(json.loads(done.stdout)["text"])


def differences(answers: list[InterfaceAnswer]) -> list[str]:
    """Return the prompt marks for which interfaces with equal pixels gave different answers."""
    exact = [answer for answer in answers if answer.pixels == "float32"]
    texts = {marks: {answer.text for answer in exact if answer.marks == marks} for marks in ("问/答", "Q/A")}
    return [marks for marks, different in texts.items() if len(different) > 1]


def main() -> None:
    """Ask and print."""
    packed = visualglm.packed_model()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", default=str(sorted((packed / "samples").glob("*.png"))[0]))
    parser.add_argument("question", nargs="?", default="描述这张图片。")
    parser.add_argument("--model", default=str(packed))
    chosen = parser.parse_args()
    answers = four_ways(str(Path(chosen.model)), chosen.image, chosen.question)
    for answer in answers:
        print(f"{answer.name}\n    marks {answer.marks}; pixels {answer.pixels}; repetition penalty: {answer.penalty}")
        print(f"    {answer.text}")
    print("Image placeholders have one id here; upstream's are unk (0, HF) and pad (3, sat). No value depends on it.")
    different = differences(answers)
    if different:
        sys.exit(f"different answers with the same marks ({', '.join(different)}), pixels and penalty")
    print("Equal marks, pixels and penalty give equal answers.")


if __name__ == "__main__":
    main()
