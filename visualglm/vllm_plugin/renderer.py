"""Render chat messages into prompt ids and images for vLLM.

In: OpenAI messages, from vLLM's server or `LLM.chat`. Out: prompt ids with the placeholder tokens of every image, and
the opened images. Prompts are built by preprocessing/chat_messages.py and preprocessing/prompt.py, as in every other
interface, so a chat template has no effect. `chat_template_kwargs` may contain `language`.

An image is a data URL or, in Python, a PIL image. Other URLs are fetched only from the hosts of
`--allowed-media-domains` (by serving/url_fetcher.py). `file:` URLs are read only below `--allowed-local-media-path`.
Without these flags neither is allowed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from transformers import GenerationConfig
from vllm.config import VllmConfig
from vllm.inputs import TextPrompt, TokensPrompt
from vllm.renderers.base import BaseRenderer
from vllm.renderers.params import ChatParams, TokenizeParams
from vllm.utils.async_utils import make_async

from ..errors import ImageError, PromptError
from ..inference.generation_settings import generation_settings
from ..inference.start_reply import ask_prompt
from ..network.configuration import VisualGLMConfig
from ..preprocessing.chat_messages import CALLS, messages_to_turns
from ..preprocessing.images import open_image
from ..preprocessing.processor import VisualGLMProcessor
from ..serving.image_reader import ImageReader, refuse_too_many
from ..serving.url_fetcher import ImageFetcher
from . import detokenizer, finite_logits

Rendered = tuple[list[dict[str, Any]], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class _ModelSettings:
    """The two attributes of a model that prompts and length limits depend on."""

    config: VisualGLMConfig
    generation_config: GenerationConfig


class VisualGLMRenderer(BaseRenderer):
    """Renderer of VisualGLM; the module docstring describes input and output."""

    def __init__(self, config: VllmConfig, tokenizer: Any) -> None:
        super().__init__(config, tokenizer)
        detokenizer.patch_detokenizer()
        finite_logits.patch_server()
        model = self.model_config
        self._settings = _ModelSettings(model.hf_config, GenerationConfig(**model.try_get_generation_config()))
        limits = generation_settings(self._settings).limits
        self._limits = dataclasses.replace(limits, total=min(limits.total, model.max_model_len))
        self._reader = ImageReader(ImageFetcher(model.allowed_media_domains or ()))
        self._local_folder = model.allowed_local_media_path
        self._render_async = make_async(self._render, executor=self._executor)

    # messages

    def render_messages(self, messages: list[Any], params: ChatParams) -> Rendered:
        """Messages -> (messages with simple parts, vLLM's prompt dictionary).

        Raises:
            PromptError: the messages are not a valid dialogue, or too long.
            ImageError: an image is not allowed, or cannot be opened.
        """
        return self._render(messages, params)

    async def render_messages_async(self, messages: list[Any], params: ChatParams) -> Rendered:
        """`render_messages` in an executor, so that the event loop is not blocked."""
        rendered: Rendered = await self._render_async(messages, params)
        return rendered

    def _render(self, messages: list[Any], params: ChatParams) -> Rendered:
        options = params.chat_template_kwargs
        if options.get("tools"):
            raise PromptError("VisualGLM does not support tools. Remove them from the request.")
        if options.get("continue_final_message"):
            raise PromptError("VisualGLM cannot continue a given answer in vLLM. Remove continue_final_message.")
        plain = [_simplify_message(message) for message in messages]
        turns, sources = messages_to_turns(plain)
        refuse_too_many(sources)
        processor = VisualGLMProcessor.for_config(self._settings.config, self.get_tokenizer())
        prompt = ask_prompt(processor, turns, options.get("language", "auto"), self._limits)
        rendered: dict[str, Any] = {"prompt_token_ids": prompt.input_ids}
        if sources:
            rendered["multi_modal_data"] = {"image": [self._open_image(source) for source in sources]}
        return plain, rendered

    def _open_image(self, source: Any) -> Any:
        if isinstance(source, str) and source[:5].lower() == "file:":
            return open_image(self._resolve_local_file(source))
        return open_image(self._reader.read(source) if isinstance(source, str) else source)

    def _resolve_local_file(self, url: str) -> Path:
        """Return the path of a `file:` URL below `--allowed-local-media-path`.

        Raises:
            ImageError: the path is outside, or local files are not allowed.
        """
        parts = urlsplit(url)
        file = Path(unquote(parts.path)).resolve()
        if not self._local_folder or parts.netloc or not file.is_relative_to(Path(self._local_folder).resolve()):
            raise ImageError("The server does not read this file. Send the image itself, as a data URL.")
        return file

    # strings and ids, from LLM.generate and /v1/completions

    def _tokenize_prompt(self, prompt: TextPrompt, params: TokenizeParams) -> TokensPrompt:
        """Tokenize a text prompt as `VisualGLMProcessor` does: one `<img></img>` per image, or a bare question."""
        images = (prompt.get("multi_modal_data") or {}).get("image")
        processor = self.get_mm_processor().info.processor
        ids = processor(images=images, text=prompt["prompt"])["input_ids"][0]
        return self._build_tokens_prompt(ids, prompt)  # type: ignore[no-any-return]

    def validate_token_ids(self, token_ids: Sequence[int], *, parameter: str | None = None) -> None:
        """Check a prompt of ids; vLLM calls this for every prompt, also those of beam search.

        The plugin derives the end of the prefix from the prompt's length alone, so a prompt must end with `<sop>`.

        Raises:
            PromptError: the ids do not end with `[gMASK] <sop>`, or contain one of them earlier.
        """
        super().validate_token_ids(token_ids, parameter=parameter)
        end = [self._settings.config.gmask_token_id, self._settings.config.bos_token_id]
        if list(token_ids[-2:]) != end or any(index in end for index in token_ids[:-2]):
            raise PromptError(
                f"A prompt of ids must end with [gMASK] <sop> ({end[0]}, {end[1]}) and contain neither before. Build "
                "it with visualglm's processor, or send messages. Beam search extends prompts and is not supported."
            )


def _simplify_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Copy what prompts read of a message; parts become a list, with `image` for vLLM's `image_pil`."""
    content = message.get("content")
    kept = {name: message[name] for name in ("refusal", *CALLS) if message.get(name)}
    if content is not None and not isinstance(content, str) and isinstance(content, Iterable):
        content = [_simplify_part(part) for part in content]
    return {"role": message.get("role"), "content": content, **kept}


def _simplify_part(part: Any) -> Any:
    if isinstance(part, Mapping) and part.get("type") == "image_pil":
        return {"type": "image", "image": part.get("image_pil")}
    return part
