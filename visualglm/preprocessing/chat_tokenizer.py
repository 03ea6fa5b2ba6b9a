"""Tokenize chat messages without images.

In: messages. Out: `input_ids` [T] or [rows, T], `attention_mask`, and `assistant_masks` for training. Messages with
images need the processor.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import BatchEncoding
from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

from ..errors import PromptError, UsageError
from .chat_messages import CHAT_TEMPLATE, check_messages, messages_to_turns, refuse_assistant_mask
from .prompt import Language, build_chat_row


class ChatTokenizer(SentencePieceBackend):
    """Tokenizer with the chat template of `ChatGLMTokenizer`."""

    def apply_chat_template(
        self,
        conversation: Any,
        tools: Any = None,
        documents: Any = None,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Render or tokenize messages without images, or a batch of them; arguments are transformers', and `language`.

        With our template, tokenized messages are a prompt that ends in `[gMASK] <sop>`; a conversation that ends with
        an answer is a training row (`prompt.build_chat_row`). transformers renders other templates.

        Raises:
            PromptError: the messages are not a dialogue, have images, or ask for tools, documents or truncation.
            UsageError: an argument is unknown, or `return_assistant_tokens_mask` is given with another template.
        """
        batch = conversation if conversation and isinstance(conversation[0], (list, tuple)) else [conversation]
        if (chat_template or self.chat_template) != CHAT_TEMPLATE:
            refuse_assistant_mask(kwargs)
            return super().apply_chat_template(conversation, tools, documents, chat_template, **kwargs)
        if tools or documents:
            raise PromptError("VisualGLM was not trained with tools or documents. Leave them out.")
        if kwargs.pop("tokenize", True):
            return self._tokenize_chat(batch, batch is conversation, **kwargs)
        for messages in batch:
            check_messages(messages)
        return super().apply_chat_template(conversation, tokenize=False, **kwargs)

    def _tokenize_chat(
        self,
        batch: Any,
        batched: bool,
        language: Language = "auto",
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        return_tensors: Any = None,
        continue_final_message: bool = False,
        add_generation_prompt: bool | None = None,
        truncation: bool = False,
        padding: bool | str = False,
        max_length: int | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        sanitize_control_tokens: bool = True,
        **unknown: Any,
    ) -> Any:
        if unknown:
            raise UsageError(f"apply_chat_template has no argument {min(unknown)!r}. Correct or remove it.")
        if truncation:
            raise PromptError("A prompt is never cut in the middle. Leave truncation out.")
        rows, masks = [], []
        for messages in batch:
            turns, images = messages_to_turns(messages)
            if images:
                raise PromptError("The tokenizer takes no images. Use the processor's apply_chat_template.")
            prompt, mask = build_chat_row(
                self,
                turns,
                language=language,
                image_token_id=0,
                image_length=0,
                continue_answer=continue_final_message,
                add_generation_prompt=add_generation_prompt,
            )
            rows.append(prompt.input_ids)
            masks.append(mask)
        options = tokenizer_kwargs or {}
        ids = self.pad({"input_ids": rows}, padding or return_tensors is not None, max_length, **options)["input_ids"]
        side = options.get("padding_side")
        data = {"input_ids": ids, "attention_mask": self.pad_masks([[1] * len(row) for row in rows], ids, side)}
        if return_assistant_tokens_mask:
            data["assistant_masks"] = self.pad_masks(masks, ids, side)
        if not batched and return_tensors is None:
            data = {key: values[0] for key, values in data.items()}
        encoding = BatchEncoding(data, tensor_type=return_tensors)
        return encoding if return_dict else encoding["input_ids"]

    def pad_masks(
        self, masks: list[list[int]], rows: Iterable[Any], padding_side: str | None = None
    ) -> list[list[int]]:
        """Pad masks with 0 to the lengths of padded rows."""
        right = (padding_side or self.padding_side) == "right"
        padded = []
        for mask, row in zip(masks, rows, strict=True):
            zeros = [0] * (len(row) - len(mask))
            padded.append(mask + zeros if right else zeros + mask)
        return padded
