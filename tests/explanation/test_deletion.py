"""The deletion curve: a planted model's patch is found, and a wrong or random map is no better than chance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import visualglm
from visualglm.explanation.deletion import (
    THOROUGH_FRACTIONS,
    THOROUGH_ORDERS,
    _student_quantile,
    answer_score,
    finish,
    hide,
    measure_deletion,
)
from visualglm.preprocessing.prompt import Turn

SIDE, PATCH, PLANTED = 16, 2, 71
PIXELS = torch.linspace(-1, 1, 3 * (SIDE * PATCH) ** 2).reshape(1, 3, SIDE * PATCH, SIDE * PATCH)


def planted_score(images: Tensor) -> Tensor:
    """Return a log probability that falls when one patch changes."""
    row, column = (PATCH * place for place in divmod(PLANTED, SIDE))
    changed = (images - PIXELS)[:, :, row : row + PATCH, column : column + PATCH].abs().amax((1, 2, 3))
    return -5.0 * (changed > 0)


def test_the_map_that_names_the_planted_patch_exceeds_chance() -> None:
    weights = torch.full((SIDE * SIDE,), 0.1)
    weights[PLANTED] = 1.0
    curve = finish(measure_deletion(planted_score, PIXELS, weights, 0.0, THOROUGH_FRACTIONS, THOROUGH_ORDERS))
    assert curve.attended == (0.0, *[-5.0] * 16)
    assert len(curve.random) == THOROUGH_ORDERS and all(
        values[0] == 0.0 and values[-1] == -5.0 for values in curve.random
    )
    assert curve.area > 1.5 and curve.low < curve.area < curve.high


def smooth_score(images: Tensor) -> Tensor:
    """Return a log probability that depends equally on each of the first eighth of the patches."""
    return -(images - PIXELS).abs()[:, :, : SIDE * PATCH // 8].mean((1, 2, 3))


def test_a_right_map_exceeds_chance_and_others_do_not() -> None:
    right = torch.linspace(1, 0, SIDE * SIDE)
    assert finish(measure_deletion(smooth_score, PIXELS, right, 0.0)).exceeds_chance
    wrong = finish(measure_deletion(smooth_score, PIXELS, -right, 0.0))
    assert wrong.area < 0 and not wrong.exceeds_chance
    generator = torch.Generator().manual_seed(1)
    lucky = [
        finish(measure_deletion(smooth_score, PIXELS, torch.rand(SIDE * SIDE, generator=generator), 0.0)).exceeds_chance
        for _ in range(100)
    ]
    assert sum(lucky) <= 8  # 2.5 are expected


def test_hidden_patches_have_the_mean_colour() -> None:
    masks = torch.zeros(2, SIDE * SIDE, dtype=torch.bool)
    masks[1, PLANTED] = True
    plain, changed = hide(PIXELS, masks)
    assert torch.equal(plain, PIXELS[0])
    row, column = (PATCH * place for place in divmod(PLANTED, SIDE))
    patch = changed[:, row : row + PATCH, column : column + PATCH]
    torch.testing.assert_close(patch, PIXELS[0].mean((1, 2))[:, None, None].expand_as(patch))
    assert int((changed != PIXELS[0]).any(0).sum()) == PATCH * PATCH


def test_the_score_is_the_models_and_is_that_of_one_image_in_a_batch(opened: visualglm.VisualGLM) -> None:
    prompt = opened.processor.build_prompt([Turn("What is this?", image_count=1)], "en", 1000).input_ids
    answer = opened.tokenizer.encode_plain("A red circle.")
    ids = torch.tensor([prompt + answer])
    samples = visualglm.packed_model() / "samples"
    images = torch.cat([opened.pixel_values(samples / name) for name in ("circles.png", "star.png")])
    scores = answer_score(opened.model, ids, len(answer), range(len(answer)))(images)
    labels = torch.tensor([[-100] * len(prompt) + answer])
    for image, score in zip(images, scores, strict=True):
        loss = opened.model(input_ids=ids, pixel_values=image[None], labels=labels).loss.detach()
        assert float(score) == pytest.approx(-float(loss), abs=1e-3)


@pytest.mark.parametrize(("freedom", "quantile"), [(4, 2.776), (19, 2.093), (1000, 1.962)])
def test_quantiles_are_students(freedom: int, quantile: float) -> None:
    assert _student_quantile(freedom) == pytest.approx(quantile, rel=0.005)
