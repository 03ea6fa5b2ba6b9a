"""Ask many English questions in English mode and count answers with a Chinese character; there should be none.

    python examples/english_only.py [--questions 200] [--model FOLDER]

Each question is asked twice, with sampling: by `Conversation` with language "en", and by sat's `chat` with upstream's
`invalid_slices`.
Prints one JSON object; exit code 1 if a Chinese character was found.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

import visualglm
from visualglm.compat import sat
from visualglm.compat.sat_chat import CHINESE_OF_6B
from visualglm.preprocessing.prompt import CHINESE

QUESTIONS = (
    "Describe this picture.",
    "What is in the picture?",
    "What colour is the background?",
    "How many things are there?",
    "What is on the left?",
    "What is on the right?",
    "Answer in Chinese: what is this?",
    "Say hello in Chinese.",
    "Is there a circle?",
    "What time is it?",
)


def count(questions: int, folder: str) -> dict[str, int]:
    """Count the answers of both interfaces, and those with a Chinese character."""
    opened = visualglm.load(folder, device="cpu")
    images = sorted((visualglm.packed_model() / "samples").glob("*.png"))
    asked = itertools.cycle(itertools.product(QUESTIONS, images))
    answers: list[str] = []
    for seed, (question, image) in enumerate(itertools.islice(asked, questions)):
        sampling = {"do_sample": True, "top_k": 0, "top_p": 1.0, "max_new_tokens": 48, "seed": seed}
        answers.append(opened.conversation(image, "en").ask(question, **sampling).text)
        answer, _, _ = sat.chat(
            str(image), opened.model, opened.tokenizer, question, max_length=128, invalid_slices=[CHINESE_OF_6B],
            english=True, seed=seed,
        )  # fmt: skip
        answers.append(answer)
    return {
        "questions": questions,
        "answers": len(answers),
        "empty": answers.count(""),
        "with_chinese": sum(CHINESE.search(answer) is not None for answer in answers),
    }


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--model", type=Path, default=visualglm.packed_model())
    chosen = parser.parse_args()
    found = count(chosen.questions, str(chosen.model))
    print(json.dumps(found))
    sys.exit(1 if found["with_chinese"] else 0)


if __name__ == "__main__":
    main()
