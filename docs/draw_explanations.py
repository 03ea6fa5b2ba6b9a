"""Draw docs/images/explain_*.png: explanations of the packed model's answers, eight that hold and two that do not.

Run: `make explain-images`. The images are drawn scenes in the order of their seeds, asked about in English and Chinese
in turn; the first ones of each kind are taken, so nothing is chosen by its looks.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from shrink_image import shrink

import visualglm
from visualglm.evaluation.scenes.render import render_scene
from visualglm.evaluation.scenes.scene import scene_of
from visualglm.evaluation.scenes.split_seeds import Split, seeds
from visualglm.explanation.drawing import draw_explanation
from visualglm.explanation.explanation import Explanation

IMAGES = Path(__file__).with_name("images")
FIRST_SEED = 5_000_000
"""Of the evaluation's seeds; no other task uses them."""
WANTED = {"holds": 8, "fails": 2}
MOST_SCENES = 200
QUESTIONS = ("What is in this image?", "图里有什么？")


def main() -> None:
    """Explain scenes until there are enough of both kinds."""
    model = visualglm.load(device="cpu")
    found: dict[str, list[Explanation]] = {kind: [] for kind in WANTED}
    for number, seed in enumerate(islice(seeds(Split.EVALUATION, FIRST_SEED), MOST_SCENES)):
        image = render_scene(scene_of(seed, most=3))
        explanation = model.explain(image, QUESTIONS[number % 2], do_sample=False, thorough=True)
        found["holds" if explanation.exceeds_chance else "fails"].append(explanation)
        if all(len(found[kind]) >= count for kind, count in WANTED.items()):
            break
    for kind, count in WANTED.items():
        for number, explanation in enumerate(found[kind][:count], 1):
            file = IMAGES / f"explain_{kind}_{number}.png"
            draw_explanation(explanation, file)
            shrink(file)
        print(f"{kind}: {min(count, len(found[kind]))} of {count} drawn, {len(found[kind])} found")


if __name__ == "__main__":
    main()
