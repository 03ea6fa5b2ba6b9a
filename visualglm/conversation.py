"""Friendly API: a model opened by name, dialogues that remember their images, answers.

    visualglm.load() -> VisualGLM -- .conversation(image) --> Conversation -- .ask(question) --> Answer

An image is encoded once for each adapter, however many questions follow.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .adapters.manager import AdapterManager
from .checkpoints import find_vocabulary, local_folder, plan_from_flags, read_config, resolve_vocabulary
from .errors import ImageError, PromptError, TokenizerError, UsageError, VisualGLMError
from .explanation.attribution import Method, check_method
from .explanation.deletion import finish
from .explanation.explanation import Explanation, answered_by, explain_answer
from .hardware.devices import cpu_dtype, resolve_device, validate_dtype
from .hub.local_folder import default_model
from .inference.answer import Answer
from .inference.batch_generation import generate_batch
from .inference.image_features import ImageFeatures, encode_pixels
from .inference.start_reply import start_reply, start_row
from .inference.streaming_reply import StreamingReply
from .inference.text_row import TextRow
from .model import VisualGLMForConditionalGeneration
from .preprocessing.chinese_token_filter import forbid_chinese_tokens
from .preprocessing.describe_questions import DEFAULT_QUESTIONS
from .preprocessing.images import ImageSource, VisualGLMImageProcessor, open_image
from .preprocessing.processor import VisualGLMProcessor
from .preprocessing.prompt import Language, Turn
from .preprocessing.tokenizer import ChatGLMTokenizer


class Conversation:
    """A dialogue about images, or about none.

    `turns` is the history. `language` is `auto` (Q/A when the question has no Chinese character), `zh`, or `en` (Q/A,
    and no Chinese character in an answer). `adapter` is the name of the adapter that answers (None: the model's active
    one).
    """

    def __init__(
        self,
        model: VisualGLM,
        image: ImageSource | None = None,
        language: Language = "auto",
        adapter: str | None = None,
    ) -> None:
        self.model = model
        self.adapter = adapter
        self.language: Language = language
        self.turns: list[Turn] = []
        self.answer: Answer | None = None
        self._images: list[ImageFeatures] = []
        self._shown = 0
        self._streaming = False
        if image is not None:
            self.show(image)

    @property
    def history(self) -> list[tuple[str, str]]:
        """History as (question, answer) pairs."""
        return [(turn.question, turn.answer or "") for turn in self.turns]

    def show(self, image: ImageSource) -> None:
        """Put an image before the next question, and encode it.

        It is encoded again only when another adapter answers.

        Raises:
            ImageError: the image cannot be opened.
        """
        self._switch()
        features = ImageFeatures(self.model.pixel_values(image))
        features.embeds(self.model.model)
        self._images.append(features)
        self._shown += 1

    def clear(self) -> None:
        """Forget turns and images, as upstream's `clear` does."""
        self.turns, self._images, self._shown = [], [], 0

    def ask(self, text: str, image: ImageSource | None = None, **sampling: Any) -> Answer:
        """Answer a question.

        `sampling`: transformers' names (`temperature`, `top_p`, `max_new_tokens`, ...), `preset`, `seed`, and `stop`,
        one or several strings that end the answer. `temperature`, `top_p` and `top_k` mean sampling.

        Raises:
            ImageError: the image cannot be opened.
            PromptError: the question does not fit into the model.
            UsageError: an unknown sampling argument or an invalid value.
        """
        for _ in self.stream(text, image, **sampling):
            pass
        assert self.answer is not None
        return self.answer

    def stream(self, text: str, image: ImageSource | None = None, **sampling: Any) -> Iterator[str]:
        """Yield the answer piece by piece; afterwards `answer` holds the whole answer.

        Closing the iterator stops the generation; the text so far is recorded as the turn's answer. If no token was
        generated, no turn is recorded.
        """
        if self._streaming:
            raise UsageError("An answer is still being streamed. Read it to its end or close it, then ask again.")
        if image is not None:
            self.show(image)
        asked = Turn(text, image_count=self._shown)
        try:
            reply, dropped = self._start(asked, sampling)
        except VisualGLMError:
            if image is not None:  # the question was not asked, so its image was not used
                self._images.pop()
                self._shown -= 1
            raise
        self._streaming = True
        try:
            with reply:
                yield from reply
        finally:
            self._streaming = False
            self._finish(asked, reply, dropped)

    def _start(self, asked: Turn, sampling: dict[str, Any]) -> tuple[StreamingReply, int]:
        self._switch()
        embeds = torch.cat(self._image_embeds) if self._images else None
        turns = [*self.turns, asked]
        sampling = forbid_chinese_tokens(self.model.tokenizer, self.language, sampling)
        return start_reply(self.model.model, self.model.processor, turns, embeds, self.language, **sampling)

    @property
    def _image_embeds(self) -> list[Tensor]:
        """Return the embeddings of the images for the active adapter."""
        return [image.embeds(self.model.model) for image in self._images]

    def _switch(self) -> None:
        if self.adapter is not None:
            self.model.use_adapter(self.adapter)

    def _finish(self, asked: Turn, reply: StreamingReply, dropped: int) -> None:
        self.answer = Answer(
            reply.text, reply.finish_reason or "cancelled", reply.prompt_tokens, len(reply.ids), reply.seconds, dropped
        )
        if reply.ids:
            self.turns.append(dataclasses.replace(asked, answer=reply.text))
            self._shown = 0


class VisualGLM:
    """An opened model: `.model`, `.processor` and `.tokenizer` are the transformers objects inside."""

    def __init__(
        self,
        model: VisualGLMForConditionalGeneration,
        processor: VisualGLMProcessor | None,
        upstream_images: bool = False,
    ) -> None:
        self.model = model
        self._processor = processor
        self.upstream_images = upstream_images
        self._adapters: AdapterManager | None = None

    def eval(self) -> VisualGLM:
        """Return the model itself: it is opened for inference."""
        return self

    def to(self, *args: Any, **kwargs: Any) -> VisualGLM:
        """Raise `UsageError`: device and dtype are chosen by `load`."""
        raise UsageError("An opened model stays where it is. Open it with load(..., device='cuda', dtype='float16').")

    half = bfloat16 = cuda = cpu = to

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters that were added."""
        return [] if self._adapters is None else list(self._adapters.names)

    def add_adapter(self, place: str | Path, name: str | None = None) -> str:
        """Add an adapter that `visualglm finetune` trained (`DIR`, or `DIR@STEP`) and activate it; return its name.

        The name is `name`, or the folder's. Several may be added; one is active at a time.

        Raises:
            CheckpointError: it was trained on another model.
            UsageError: there is no adapter, its name is taken, or peft is not installed.
        """
        if self._adapters is None:
            self._adapters = AdapterManager(self.model)
        added: str = self._adapters.add(place, name)
        return added

    def use_adapter(self, name: str | None) -> None:
        """Activate an adapter by name, or with None the base model; not while an answer is being generated.

        Raises:
            UsageError: there is no adapter of that name, or an answer of another one is being generated.
        """
        if self._adapters is not None:
            self._adapters.use(name)
        elif name is not None:
            raise UsageError(f"There is no adapter {name!r}, since none was added. Add one with add_adapter.")

    @property
    def processor(self) -> VisualGLMProcessor:
        """The model's processor; raises `TokenizerError` if no vocabulary file was found or given."""
        if self._processor is None:
            raise TokenizerError(
                f"There is no vocabulary file (ice_text.model) beside the weights in {self.model.name_or_path}. "
                "Give one with tokenizer=... (--tokenizer on the command line)."
            )
        images, own = self._processor.image_processor, VisualGLMImageProcessor.for_config(self.model.config)
        if images.size != own.size:  # resize_image_size was called after the processor was made
            images.size = own.size
        return self._processor

    @property
    def tokenizer(self) -> ChatGLMTokenizer:
        """The model's tokenizer; raises `TokenizerError` if no vocabulary file was found or given."""
        return self.processor.tokenizer

    def pixel_values(self, image: ImageSource) -> Tensor:
        """Preprocess an image of any kind into `pixel_values` [1, 3, H, W].

        Raises:
            ImageError: it cannot be opened.
        """
        return self.processor.image_processor.read(image, self.upstream_images)

    def encode(self, image: ImageSource) -> Tensor:
        """Encode an image into the embeddings of its placeholder tokens [1, image_length, hidden], for `row`.

        Raises:
            ImageError: it cannot be opened.
        """
        return encode_pixels(self.model, self.pixel_values(image))

    def conversation(
        self, image: ImageSource | None = None, language: Language = "auto", adapter: str | None = None
    ) -> Conversation:
        """Start a dialogue, with an image if one is given, answered through an adapter if one is named."""
        return Conversation(self, image, language, adapter)

    def ask(self, image: ImageSource | None, question: str, language: Language = "auto", **sampling: Any) -> Answer:
        """Ask one question about one image, without history."""
        return self.conversation(image, language).ask(question, **sampling)

    def caption(
        self,
        images: Sequence[ImageSource],
        question: str | Sequence[str] = DEFAULT_QUESTIONS["zh"],
        language: Language = "auto",
        batch_size: int = 8,
        **sampling: Any,
    ) -> list[Answer]:
        """Ask about many images, `batch_size` at a time; each answer is that of `ask`, `seed` included.

        `question`: one for all images, or one per image. An image that cannot be opened, or a question that does not
        fit, gives an answer with `error`; the others are answered.

        Raises:
            UsageError: `images` is one image, the numbers of images and questions differ, `batch_size` is below 1,
                `num_beams` is above 1, or a sampling argument is invalid.
        """
        if isinstance(images, (str, bytes)) or not isinstance(images, Sequence) or batch_size < 1:
            raise UsageError("caption takes a list of images and a batch_size of at least 1. Use ask for one image.")
        questions = [question] * len(images) if isinstance(question, str) else list(question)
        if len(questions) != len(images):
            raise UsageError(f"There are {len(images)} images and {len(questions)} questions. Give one for each image.")
        asked = list(zip(images, questions, strict=True))
        answers: list[Answer] = []
        for start in range(0, len(asked), batch_size):
            answers += self._caption_batch(asked[start : start + batch_size], language, sampling)
        return answers

    def _caption_batch(
        self, asked: Sequence[tuple[ImageSource, str]], language: Language, sampling: dict[str, Any]
    ) -> list[Answer]:
        started = time.perf_counter()
        rows = [self._caption_row(image, question, language, sampling) for image, question in asked]
        generate_batch(self.model, [row for row in rows if isinstance(row, TextRow)])
        seconds = time.perf_counter() - started
        return [self.row_answer(row, seconds) if isinstance(row, TextRow) else row for row in rows]

    def _caption_row(
        self, image: ImageSource, question: str, language: Language, sampling: dict[str, Any]
    ) -> TextRow | Answer:
        try:
            return self.row(self.encode(image), question, language, **sampling)
        except (ImageError, PromptError) as error:
            return Answer("", "error", 0, 0, 0.0, error=str(error))

    def row(self, image_embeds: Tensor | None, question: str, language: Language = "auto", **sampling: Any) -> TextRow:
        """Build a row for `generate_batch`: a question, and an encoded image [1, image_length, hidden] or None.

        Raises:
            PromptError: the question does not fit into the model.
        """
        turn = Turn(question, image_count=0 if image_embeds is None else 1)
        return start_row(self.model, self.processor, [turn], image_embeds, language, **sampling)

    def explain(
        self,
        image: ImageSource,
        question: str,
        language: Language = "auto",
        *,
        answer: str | None = None,
        word: str | None = None,
        method: Method = "rollout",
        thorough: bool = False,
        **sampling: Any,
    ) -> Explanation:
        """Explain which patches each word of the answer, or only `word`, rests on; `answer` replaces the model's own.

        Raises:
            PromptError: the question does not fit into the model, or the answer is empty.
            UsageError: an unknown method, or a word that is not in the answer.
        """
        check_method(method)
        opened = open_image(image, upstream=self.upstream_images)
        pixels = self.pixel_values(opened)
        row = self.row(encode_pixels(self.model, pixels), question, language, **sampling)
        if answer is None:
            generate_batch(self.model, [row])
        asked = answered_by(row, question, self.tokenizer, answer)
        return finish(explain_answer(self.model, self.tokenizer, asked, pixels, opened, method, word, thorough))

    def row_answer(self, row: TextRow, seconds: float = 0.0) -> Answer:
        """Return the answer of a finished row."""
        return Answer(row.text, "stop" if row.stopped else "length", len(row.input_ids), len(row.ids), seconds)


def load(
    name_or_dir: str | Path | None = None,
    *,
    tokenizer: str | Path | None = None,
    adapter: str | Path | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    upstream_images: bool = False,
    quantize: int | str | None = None,
    quantize_vision: int | str | None = None,
    quantize_vocabulary: int | str | None = None,
    compile: bool = False,
    **kwargs: Any,
) -> VisualGLM:
    """Open a model: the packed one, a folder of any layout, or a hub id.

    Args:
        name_or_dir: None for what `VISUALGLM_MODEL` names, or else the packed miniature.
        tokenizer: the vocabulary file or its folder, if it is not in the folder of the weights.
        adapter: an adapter that `visualglm finetune` trained on this model: `DIR`, or `DIR@STEP` for a checkpoint.
        device: `auto` (cuda, then mps, then cpu), or a torch device.
        dtype: `auto`: the checkpoint's on a GPU; on a CPU float32 up to a billion parameters, bfloat16 above.
        upstream_images: open images as upstream did: EXIF orientation ignored, transparency dropped.
        quantize: 8 or 4 quantizes the language model's linears while they are read, so the 16-bit weights are never all
            in memory. A folder that `visualglm quantize` wrote needs no flag.
        quantize_vision: 8 or 4 does the same for ViT, Q-Former and projection.
        quantize_vocabulary: 8 does the same for the word embeddings and the head.
        compile: compile the decoding step into a CUDA graph. Compilation happens during the first answer, and during
            the first answer that is longer than all before it.
        kwargs: more arguments of `from_pretrained` (`device_map`, `attn_implementation`, ...).

    Raises:
        CheckpointError: the files are not a complete VisualGLM checkpoint.
        TokenizerError: the given vocabulary file is not a vocabulary file.
        QuantizationError: an unsupported number of bits.
        UsageError: the device is not available, the checkpoint is quantized already, or `compile` without a GPU.
    """
    for name in ("load_in_4bit", "load_in_8bit"):
        if name in kwargs:
            raise UsageError(f"load has no argument {name}. Use quantize={name[8]}.")
    folder = local_folder(default_model() if name_or_dir is None else name_or_dir)
    device = resolve_device(str(device), compile)
    dtype = validate_dtype(dtype)
    if dtype == "auto" and device == "cpu":
        dtype = cpu_dtype(read_config(folder))
    plan = plan_from_flags(quantize, vision=quantize_vision, vocabulary=quantize_vocabulary)
    if plan is not None:
        kwargs["quantization_config"] = plan
    model = VisualGLMForConditionalGeneration.from_pretrained(
        str(folder), dtype=dtype, **{"device_map": device, **kwargs}
    ).eval()
    model.compiles_steps = compile
    vocabulary = find_vocabulary(folder) if tokenizer is None else resolve_vocabulary(tokenizer)
    processor = None if vocabulary is None else VisualGLMProcessor.for_config(model.config, vocabulary)
    opened = VisualGLM(model, processor, upstream_images)
    if adapter is not None:
        opened.add_adapter(adapter)
    return opened
