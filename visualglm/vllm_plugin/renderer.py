"""Chat messages become ids and pictures here, by preprocessing/chat_messages.py and preprocessing/prompt.py; vLLM
gets no string.

In: OpenAI's messages, as vLLM's server or `LLM.chat` has them. Out: a prompt with every picture's slots, and the
pictures, opened by preprocessing/images.py. A picture is a data URL, or a PIL picture in Python. A URL is fetched
from the hosts of `--allowed-media-domains` only, by serving/url_fetcher.py, and a `file:` URL is read below
`--allowed-local-media-path` only; without these flags neither is. `chat_template_kwargs` may have a `language`; a
chat template would have no effect.
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
from ..inference.prompting import ask_prompt
from ..network.configuration import VisualGLMConfig
from ..preprocessing.chat_messages import messages_to_turns
from ..preprocessing.images import open_image
from ..preprocessing.processor import VisualGLMProcessor
from ..serving.image_reader import ImageReader, refuse_too_many
from ..serving.url_fetcher import ImageFetcher
from . import detokenizer

Rendered = tuple[list[dict[str, Any]], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class _Facts:
    """All that the limits of a dialogue depend on."""

    config: VisualGLMConfig
    generation_config: GenerationConfig


class VisualGLMRenderer(BaseRenderer):
    """See the head of this file."""

    def __init__(self, config: VllmConfig, tokenizer: Any) -> None:
        super().__init__(config, tokenizer)
        detokenizer.patch_detokenizer()
        model = self.model_config
        self._facts = _Facts(model.hf_config, GenerationConfig(**model.try_get_generation_config()))
        limits = generation_settings(self._facts).limits
        self._limits = dataclasses.replace(limits, total=min(limits.total, model.max_model_len))
        self._reader = ImageReader(ImageFetcher(model.allowed_media_domains or ()))
        self._local = model.allowed_local_media_path
        self._render_async = make_async(self._render, executor=self._executor)

    # messages

    def render_messages(self, messages: list[Any], params: ChatParams) -> Rendered:
        """Messages -> what vLLM calls the conversation, and the prompt.

        Raises:
            PromptError: they are no dialogue, or do not fit.
            ImageError: a picture may not, or cannot, be opened.
        """
        return self._render(messages, params)

    async def render_messages_async(self, messages: list[Any], params: ChatParams) -> Rendered:
        """The same beside the event loop."""
        rendered: Rendered = await self._render_async(messages, params)
        return rendered

    def _render(self, messages: list[Any], params: ChatParams) -> Rendered:
        asked = params.chat_template_kwargs
        if asked.get("tools"):
            raise PromptError("VisualGLM was not trained with tools: leave them out.")
        if asked.get("continue_final_message"):
            raise PromptError("vLLM cannot go on with a beginning of an answer here: leave continue_final_message out.")
        plain = [_plain(message) for message in messages]
        turns, sources = messages_to_turns(plain)
        refuse_too_many(sources)
        processor = VisualGLMProcessor.for_config(self._facts.config, self.get_tokenizer())
        prompt = ask_prompt(processor, turns, asked.get("language", "auto"), self._limits)
        rendered: dict[str, Any] = {"prompt_token_ids": prompt.input_ids}
        if sources:
            rendered["multi_modal_data"] = {"image": [self._open(source) for source in sources]}
        return plain, rendered

    def _open(self, source: Any) -> Any:
        if isinstance(source, str) and source[:5].lower() == "file:":
            return open_image(self._local_file(source))
        return open_image(self._reader.read(source) if isinstance(source, str) else source)

    def _local_file(self, url: str) -> Path:
        parts = urlsplit(url)
        file = Path(unquote(parts.path)).resolve()
        if not self._local or parts.netloc or not file.is_relative_to(Path(self._local).resolve()):
            raise ImageError("The server reads no such file: send the picture itself, as a data URL.")
        return file

    # strings and ids, as LLM.generate and /v1/completions have them

    def _tokenize_prompt(self, prompt: TextPrompt, params: TokenizeParams) -> TokensPrompt:
        """A text as `VisualGLMProcessor` takes it: an `<img></img>` for each picture, or none and a question."""
        pictures = (prompt.get("multi_modal_data") or {}).get("image")
        processor = self.get_mm_processor().info.processor
        ids = processor(images=pictures, text=prompt["prompt"])["input_ids"][0]
        return self._build_tokens_prompt(ids, prompt)  # type: ignore[no-any-return]

    def validate_token_ids(self, token_ids: Sequence[int], *, parameter: str | None = None) -> None:
        """vLLM asks this about every prompt, also those that come by other ways (beam search, forwarded ids).

        Raises:
            PromptError: it does not end as a prompt, whose length alone tells the plugin where its prefix ends.
        """
        super().validate_token_ids(token_ids, parameter=parameter)
        end = [self._facts.config.gmask_token_id, self._facts.config.bos_token_id]
        if list(token_ids[-2:]) != end or any(index in end for index in token_ids[:-2]):
            raise PromptError(
                f"A prompt of ids ends with [gMASK] <sop> ({end[0]}, {end[1]}) and has neither before: build it with "
                "visualglm's processor, or send messages. Beam search prolongs prompts and is refused."
            )


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message whose parts are a list; vLLM's own name for a PIL picture is ours."""
    content = message.get("content")
    if content is None or isinstance(content, str) or not isinstance(content, Iterable):
        return {"role": message.get("role"), "content": content}
    return {"role": message.get("role"), "content": [_part(part) for part in content]}


def _part(part: Any) -> Any:
    if isinstance(part, Mapping) and part.get("type") == "image_pil":
        return {"type": "image", "image": part.get("image_pil")}
    return part
