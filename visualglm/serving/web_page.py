"""The web page, mounted at `/`: gradio's chat over the same engine as the APIs.

What the browser sends is a dialogue; its images are files that it uploaded, and no other file is read. The
interface speaks the browser's language (web_page_texts.py). Nothing is fetched from elsewhere, and nothing is
reported to anybody.
"""

from __future__ import annotations

import html
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "0")
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "1")  # it sums up all of these after each

import gradio
from fastapi import FastAPI
from starlette.routing import Mount

from ..conversation import packed_model
from ..errors import ImageError, VisualGLMError
from ..inference.generation_settings import generation_settings
from ..preprocessing.prompt import Turn
from .engine import Engine, QueueFullError
from .error_responses import FAILED
from .job import QueueTimeoutError
from .model_ids import ModelIds
from .openai_schema import sampled
from .web_page_dialogues import Dialogues, explain_failures
from .web_page_routes import PageRoutes
from .web_page_texts import EXAMPLES, WORDS
from .web_page_uploads import Uploads

logger = logging.getLogger("visualglm.serving")

UPLOADED_BODIES = 16
"""Uploads that are kept, in bodies of the largest size."""

LONG_ANSWER = 512
"""Tokens where neither the checkpoint nor the command says where an answer must stop."""

SYSTEM_FONTS = ("system-ui", "Noto Sans CJK SC", "sans-serif")
STYLE = """
footer {display: none !important}
.gradio-container {width: 100% !important; max-width: 900px !important; margin: 0 auto !important}
button[aria-label*="share" i], button[title*="share" i] {display: none !important}
"""
"""A image in the chat has a share button of its own, which would send it to another site."""


def mount_page(app: FastAPI, engine: Engine, served: ModelIds, body_limit: int) -> Uploads:
    """Puts the page at `/` of an app whose engine it asks. The caller closes the uploads when the app stops."""
    words = gradio.I18n(**WORDS)
    uploads = Uploads(UPLOADED_BODIES * body_limit)
    os.environ["GRADIO_TEMP_DIR"] = str(uploads.folder)  # gradio's own is one folder for every user of the machine
    blocks = _blocks(engine, served, words, uploads)
    explain_failures(blocks)
    blocks.has_launched = True  # mounting never sets it, and without it gradio checks no path
    gradio.mount_gradio_app(
        app,
        blocks,
        "/",
        i18n=words,
        theme=gradio.themes.Soft(font=list(SYSTEM_FONTS), font_mono=["monospace"]),
        css=STYLE,
        show_error=False,  # what answer() raises is shown all the same
        max_file_size=body_limit,
        run_history=False,
        footer_links=[],
        ssr_mode=False,
        pwa=False,
        enable_monitoring=False,
    )
    uploads.keep_samples()
    mounted = app.routes[-1]
    assert isinstance(mounted, Mount)
    mounted.app = PageRoutes(mounted.app, uploads, Dialogues(blocks), blocks.fns)
    return uploads


def _blocks(engine: Engine, served: ModelIds, words: Callable[[str], Any], uploads: Uploads) -> gradio.Blocks:
    with gradio.Blocks(title="VisualGLM", analytics_enabled=False) as page:
        gradio.Markdown(words("greeting"))
        start = generation_settings(engine.model.model, **engine.defaults)
        config, most = start.config, engine.model.model.config.max_sequence_length
        with gradio.Accordion(words("settings"), open=False, render=False) as settings:
            camera = gradio.Image(sources=["webcam"], type="filepath", label=words("camera"), render=False)
            camera.preprocess = lambda payload: payload and payload.path  # type: ignore[method-assign]  # or it decodes
            cold = float(config.temperature or 1.0) if config.do_sample else 0.0
            temperature = gradio.Slider(0, max(2.0, cold), cold, step=0.05, label=words("temperature"), render=False)
            top_p = gradio.Slider(0, 1, config.top_p or 1.0, step=0.05, label=words("top_p"), render=False)
            first = min(start.limits.answer, LONG_ANSWER) if config.max_new_tokens is None else config.max_new_tokens
            longest = gradio.Slider(1, most, min(first, most), step=1, label=words("longest"), render=False)
            inputs = [camera, temperature, top_p, longest]
            if served.adapters:
                inputs.append(gradio.Dropdown(list(served.ids), value=served.first, label=words("model"), render=False))
        gradio.ChatInterface(
            _answerer(engine, served, uploads),
            multimodal=True,
            chatbot=gradio.Chatbot(
                show_label=False,
                height="60vh",
                placeholder=f"{words('empty')}",
                buttons=["copy"],  # its share button would send the dialogue to another site
            ),
            textbox=gradio.MultimodalTextbox(
                sources=["upload"], file_types=["image"], file_count="multiple", placeholder=f"{words('ask')}"
            ),
            additional_inputs=inputs,
            additional_inputs_accordion=settings,
            examples=_examples(),
            examples_label=words("examples"),
            run_examples_on_click=False,
            cache_examples=False,
            concurrency_limit=None,
            flagging_mode="never",
            api_visibility="private",
        )
    return page


def _examples() -> list[list[Any]]:
    samples = packed_model() / "samples"
    images = {image.stem: str(image) for image in sorted(samples.glob("*.png"))}
    return [[{"text": text, "files": [images[name]]}] for name, text in EXAMPLES if name in images]


def _answerer(engine: Engine, served: ModelIds, uploads: Uploads) -> Callable[..., AsyncIterator[str]]:
    async def answer(
        message: dict[str, Any],
        history: list[dict[str, Any]],
        camera: str | None,
        temperature: float,
        top_p: float,
        longest: int,
        chosen: str = "",
    ) -> AsyncIterator[str]:
        """The answer so far, again and again; leaving (the stop button) cancels it."""
        sampling = {**sampled(temperature, top_p), "max_new_tokens": int(longest)}
        try:
            turns, files = dialogue(message, history, camera)
            images = [_read_upload(uploads, file) for file in files]
            job = await engine.ask(turns, images, adapter=served.adapter(chosen), **sampling)
            try:
                async for _ in job.pieces():
                    yield job.text
            finally:
                job.cancel()
        except (VisualGLMError, QueueFullError, QueueTimeoutError) as error:
            raise gradio.Error(html.escape(str(error)), duration=None, print_exception=False) from error
        except Exception as error:
            logger.exception("An answer on the page failed.")
            raise gradio.Error(FAILED, duration=None, print_exception=False) from error

    return answer


def dialogue(
    message: dict[str, Any], history: Sequence[dict[str, Any]], camera: str | None = None
) -> tuple[list[Turn], list[str]]:
    """What the browser shows -> turns, the last one open, and the files of their images in order.

    A camera's image belongs to the first turn. Questions without an answer (stopped, failed) leave the dialogue, and
    their images go to the next question.
    """
    turns: list[Turn] = []
    files = [camera] if camera else []
    question, shown = "", len(files)
    for said in [*history, {"role": "user", "content": _parts(message)}]:
        text, images = _read(said["content"])
        if said["role"] == "assistant":
            if text and question:
                turns.append(Turn(question, text, shown))
                question, shown = "", 0
            continue
        files += images
        shown += len(images)
        question = text or question
    return [*turns, Turn(question, None, shown)], files


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    files = [{"type": "file", "file": {"path": path}} for path in message.get("files") or []]
    return [*files, {"type": "text", "text": message.get("text") or ""}]


def _read(content: Any) -> tuple[str, list[str]]:
    """Text and files of one message, as gradio writes it."""
    parts = [content] if isinstance(content, str | dict) else content
    texts = [part if isinstance(part, str) else part.get("text") or "" for part in parts]
    files = [part["file"]["path"] for part in parts if isinstance(part, dict) and part.get("file")]
    return "\n".join(text for text in texts if text), files


def _read_upload(uploads: Uploads, file: str) -> bytes:
    """An image that a browser uploaded, or one of the examples.

    Raises:
        ImageError: it is any other file.
    """
    if not uploads.holds(file):
        raise ImageError("This image is no longer on the server. Upload it again.")
    return Path(file).read_bytes()
