"""Stream the packed model's answers about a sample image, two turns each in Chinese and English.

`--record FILE` also writes the dialogues as JSON, for the README to quote.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import transformers

import visualglm

IMAGE = visualglm.packed_model() / "samples" / "moon.png"
DIALOGUES = [
    ["这张图片里有什么？", "一共有几个物体？"],
    ["What is in the picture?", "What is the background?"],
]


def main() -> None:
    """Load the packed model and chat with it."""
    transformers.logging.disable_progress_bar()
    started = time.perf_counter()
    model = visualglm.load()
    print(f"visualglm {visualglm.__version__}: visualglm-mini opened in {time.perf_counter() - started:.1f} s")
    print(f"image: {IMAGE}")
    turns = [turn for questions in DIALOGUES for turn in talk(model.conversation(IMAGE), questions)]
    if sys.argv[1:2] == ["--record"]:
        place = IMAGE.relative_to(Path(__file__).parents[1]).as_posix()
        record = {"command": "python examples/demo.py --record FILE", "image": place, "turns": turns}
        Path(sys.argv[2]).write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def talk(conversation: visualglm.Conversation, questions: list[str]) -> list[dict[str, str]]:
    """Ask and stream; return the turns."""
    for question in questions:
        print(f"\n> {question}")
        for piece in conversation.stream(question):
            print(piece, end="", flush=True)
        print()
    return [{"question": question, "answer": answer} for question, answer in conversation.history]


if __name__ == "__main__":
    main()
