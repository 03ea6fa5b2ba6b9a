"""What the page starts from, without a browser: the sampling flags of the command and the checkpoint's config."""

from __future__ import annotations

import asyncio
from typing import Any

import gradio
import pytest

import visualglm
from visualglm.cli.options import Flags
from visualglm.serving import web_page
from visualglm.serving.engine import Engine
from visualglm.serving.limits import EngineLimits
from visualglm.serving.metrics import Metrics
from visualglm.serving.model_ids import ModelIds
from visualglm.serving.web_page_texts import WORDS
from visualglm.serving.web_page_uploads import Uploads


def sliders(engine: Engine) -> list[float]:
    """Temperature, top_p and length as the page opens."""
    blocks = web_page._blocks(engine, ModelIds("mini"), gradio.I18n(**WORDS), Uploads(0)).blocks.values()
    return [block.value for block in blocks if isinstance(block, gradio.Slider)]


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        (Flags(temperature=1.5, top_p=0.3, max_new_tokens=7, seed=3), [1.5, 0.3, 7]),
        (Flags(temperature=2.5, max_new_tokens=9), [2.5, None, 9]),
        (Flags(temperature=0), [0, None, None]),
        (Flags(greedy=True), [0, None, None]),
        (Flags(preset="sat_cli"), [0.8, 0.4, None]),
    ],
)
def test_sliders_start_where_the_command_says(
    opened: visualglm.VisualGLM, flags: Flags, shown: list[float | None]
) -> None:
    found = sliders(Engine(opened, EngineLimits(), Metrics(), defaults=flags.sampling()))
    assert [value for value, wanted in zip(found, shown, strict=True) if wanted is not None] == [
        wanted for wanted in shown if wanted is not None
    ]


def test_a_slider_that_was_moved_counts(opened: visualglm.VisualGLM, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(opened, EngineLimits(), Metrics(), defaults={"temperature": 1.5, "top_p": 0.3})
    asked: dict[str, Any] = {}

    async def ask(turns: Any, images: Any, adapter: str | None = None, **sampling: Any) -> Any:
        asked.update(sampling)
        raise visualglm.errors.UsageError("enough")

    monkeypatch.setattr(engine, "ask", ask)

    async def said() -> None:
        async for _ in web_page._answerer(engine, ModelIds("mini"), Uploads(0))({"text": "?"}, [], None, 0.5, 1.0, 5):
            pass

    with pytest.raises(gradio.Error, match="enough"):
        asyncio.run(said())
    assert asked == {"do_sample": True, "temperature": 0.5, "top_p": 1.0, "max_new_tokens": 5}
