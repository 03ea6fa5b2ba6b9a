"""Stream the packed model's answers about its samples: a photograph it knows, one it is not sure about, a drawn scene.

`--record FILE` also writes the dialogues as JSON, for the README to quote.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import transformers

import visualglm

SAMPLES = visualglm.packed_model() / "samples"
DIALOGUES = [
    ("cat.jpg", ["这是什么？", "它是哪一类东西？"]),
    ("cat.jpg", ["What is this?", "What kind of thing is it?"]),
    ("astronaut.jpg", ["这是什么？", "她是谁？"]),
    ("astronaut.jpg", ["What is this?", "Who is she?"]),
    ("moon.png", ["这张图片里有什么？", "一共有几个物体？", "What is the background?"]),
]


def main() -> None:
    """Load the packed model and chat with it."""
    transformers.logging.disable_progress_bar()
    started = time.perf_counter()
    model = visualglm.load()
    print(f"visualglm {visualglm.__version__}: visualglm-mini opened in {time.perf_counter() - started:.1f} s")
    dialogues = [talk(model, SAMPLES / name, questions) for name, questions in DIALOGUES]
    if sys.argv[1:2] == ["--record"]:
        root = Path(__file__).parents[1]
        shown = [{"image": image.relative_to(root).as_posix(), "turns": turns} for image, turns in dialogues]
        record = {"command": "python examples/demo.py --record FILE", "dialogues": shown}
        Path(sys.argv[2]).write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def talk(model: visualglm.VisualGLM, image: Path, questions: list[str]) -> tuple[Path, list[dict[str, str]]]:
    """Ask about an image and stream the answers; return the image and the turns."""
    conversation = model.conversation(image)
    print(f"\nimage: {image}")
    for question in questions:
        print(f"> {question}")
        for piece in conversation.stream(question):
            print(piece, end="", flush=True)
        print()
    return image, [{"question": question, "answer": answer} for question, answer in conversation.history]


if __name__ == "__main__":
    main()
