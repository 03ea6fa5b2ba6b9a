"""The name of the model that answers, and the notice that it is the packed miniature."""

from __future__ import annotations

from pathlib import Path

import typer

from . import options

MINI = "visualglm-mini"
NOTICE = {
    "zh": f"由内置的小模型 {MINI} 回答：它认识表情符号、图标和简单的图画，也认识照片中的一部分常见事物，但不太可靠。"
    "处理照片请用 --model 打开 VisualGLM-6B。",
    "en": f"Answers are from {MINI}, the small model packed with visualglm: it knows emoji, icons, simple drawings "
    "and, less surely, single things in photographs. For photographs, open VisualGLM-6B with --model.",
}


def is_packed(model: str | None) -> bool:
    """Return True if `--model` means the packed model."""
    from ..hub.local_folder import packed_model

    return model is None or Path(model).resolve() == packed_model().resolve()


def served_name(model: str | None) -> str:
    """Return the model's id for clients: a hub id unchanged, or a folder's name (never its path)."""
    if is_packed(model) or model is None:
        return MINI
    return Path(model).resolve().name or "visualglm" if Path(model).exists() else model


def print_notice(flags: options.Flags) -> None:
    """Say on stderr that the packed miniature answered, if it did, and what to do for the 6B."""
    if is_packed(flags.model):
        typer.echo(NOTICE[options.interface_language(flags.language)], err=True)
