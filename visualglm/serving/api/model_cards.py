"""Describe the model and its adapters for `/v1/models`."""

from __future__ import annotations

import time

from ...inference.generation_settings import generation_settings
from ..engine.engine import Engine
from ..model_ids import BASE, ModelIds
from .openai_schema import ModelCard, SamplingDefaults

MINIATURE = (
    "The small model packed with visualglm: it knows emoji, icons, simple drawings and, less surely, single things in "
    "photographs. For photographs, start the server with --model and VisualGLM-6B."
)
FULL = "VisualGLM, a model that answers questions about images in Chinese and English."


def model_cards(engine: Engine, served: ModelIds, miniature: bool) -> dict[str, ModelCard]:
    """Describe the model and each adapter, by every id that a request may use."""
    about, created, sampling = MINIATURE if miniature else FULL, int(time.time()), sampling_defaults(engine)
    return {
        name: ModelCard(
            id=name,
            created=created,
            description=f"An adapter, {name}, on: {about}" if name in served.adapters else about,
            miniature=miniature,
            default=name == (served.first or served.ids[0]),
            sampling=sampling,
        )
        for name in (served.name, BASE, *served.adapters)
    }


def sampling_defaults(engine: Engine) -> SamplingDefaults:
    """Return the sampling of a request that sets nothing: the command's flags over the checkpoint's config."""
    settings = generation_settings(engine.model.model, **engine.defaults)
    config = settings.config
    return SamplingDefaults(
        temperature=(1.0 if config.temperature is None else config.temperature) if config.do_sample else 0.0,
        top_p=1.0 if config.top_p is None else config.top_p,
        top_k=config.top_k or 0,
        max_tokens=settings.limits.answer,
    )
