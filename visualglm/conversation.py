"""The friendly end of the road: a model opened by name, dialogues that remember their images, answers.

    visualglm.load() -> VisualGLM -- .conversation(image) --> Conversation -- .ask(question) --> Answer

A image is encoded once for each adapter, however many questions follow. Knows nothing about files' formats
(checkpoints does) or ids (prompt does).
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
from .errors import TokenizerError, UsageError, VisualGLMError
from .hardware.devices import cpu_dtype, resolve_device, validate_dtype
from .inference.batch_generation import GenerationRow, generate_batch
from .inference.generation_settings import generation_settings
from .inference.image_features import ImageFeatures, encode_pixels
from .inference.start_reply import ask_prompt, start_reply
from .inference.streaming_reply import FinishReason, StreamingReply
from .model import VisualGLMForConditionalGeneration
from .preprocessing.chinese_token_filter import forbid_chinese_tokens
from .preprocessing.images import ImageSource, VisualGLMImageProcessor
from .preprocessing.processor import VisualGLMProcessor
from .preprocessing.prompt import Language, Turn
from .preprocessing.tokenizer import ChatGLMTokenizer, process_response

QUESTIONS = {"zh": "描述这张图片。", "en": "Describe this picture."}


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was said, why it ended (`stop`, `length`, `cancelled`), its cost, and how many old turns it did not see."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    dropped_turns: int = 0

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


class Conversation:
    """A dialogue about images, or about none.

    `turns` are what was said; `language` is `auto` (Q/A when the question has no Chinese character), `zh`, or `en`
    (Q/A, and never a Chinese character in an answer); `adapter` is the one that answers (None: the model's own, as it
    stands).
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
        """(question, answer) pairs."""
        return [(turn.question, turn.answer or "") for turn in self.turns]

    def show(self, image: ImageSource) -> None:
        """Puts a image before the next question; it is encoded now, and again only where another adapter answers.

        Raises:
            ImageError: the image cannot be opened.
        """
        self._switch()
        features = ImageFeatures(self.model.pixel_values(image))
        features.embeds(self.model.model)
        self._images.append(features)
        self._shown += 1

    def clear(self) -> None:
        """Forgets turns and images, as upstream's `clear` does."""
        self.turns, self._images, self._shown = [], [], 0

    def ask(self, text: str, image: ImageSource | None = None, **sampling: Any) -> Answer:
        """The whole answer. `sampling`: transformers' names (`do_sample`, `top_p`, `max_new_tokens`, ...), `preset`,
        `seed`.

        Raises:
            ImageError: the image cannot be opened.
            PromptError: the question does not fit into the model.
        """
        for _ in self.stream(text, image, **sampling):
            pass
        assert self.answer is not None
        return self.answer

    def stream(self, text: str, image: ImageSource | None = None, **sampling: Any) -> Iterator[str]:
        """The answer, piece by piece; `answer` holds it whole afterwards.

        Closing the iterator stops the generation; what was said by then is the turn's answer. A question that got no
        token at all leaves no turn.
        """
        if self._streaming:
            raise UsageError("an answer is still being streamed: read it to its end or close it, then ask again.")
        if image is not None:
            self.show(image)
        asked = Turn(text, image_count=self._shown)
        try:
            reply, dropped = self._start(asked, sampling)
        except VisualGLMError:
            if image is not None:  # the question was not asked, so its image was not shown
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
        """The images' vectors for the model as it stands."""
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

    @property
    def adapters(self) -> list[str]:
        """The names of the adapters that were added."""
        return [] if self._adapters is None else list(self._adapters.names)

    def add_adapter(self, place: str | Path, name: str | None = None) -> str:
        """Lays what `visualglm finetune` trained (`DIR`, or `DIR@STEP`) on the model and puts it to work.

        Returns its name: `name`, or the folder's. Several may be added; one works at a time.

        Raises:
            CheckpointError: it was trained on another model.
            UsageError: there is no adapter, its name is taken, or peft is not installed.
        """
        if self._adapters is None:
            self._adapters = AdapterManager(self.model)
        added: str = self._adapters.add(place, name)
        return added

    def use_adapter(self, name: str | None) -> None:
        """Switches to an adapter by name, or with None to the bare model; not while an answer is being generated.

        Raises:
            UsageError: there is none of that name, or an answer is being generated with another one.
        """
        if self._adapters is not None:
            self._adapters.use(name)
        elif name is not None:
            raise UsageError(f"there is no adapter {name!r}: none was added.")

    @property
    def processor(self) -> VisualGLMProcessor:
        """Raises `TokenizerError` where no vocabulary file was found or given."""
        if self._processor is None:
            raise TokenizerError(
                f"no vocabulary file (ice_text.model) lies beside the weights in {self.model.name_or_path}, so text "
                "cannot be read: give one with tokenizer=... (--tokenizer on the command line)."
            )
        images, own = self._processor.image_processor, VisualGLMImageProcessor.for_config(self.model.config)
        if images.size != own.size:  # the model was resized since
            images.size = own.size
        return self._processor

    @property
    def tokenizer(self) -> ChatGLMTokenizer:
        """Raises `TokenizerError` where no vocabulary file was found or given."""
        return self.processor.tokenizer

    def pixel_values(self, image: ImageSource) -> Tensor:
        """`pixel_values` [1, 3, H, W] of any image.

        Raises:
            ImageError: it cannot be opened.
        """
        return self.processor.image_processor.read(image, self.upstream_images)

    def encode(self, image: ImageSource) -> Tensor:
        """The vectors of an image's placeholder tokens [1, image_length, hidden], for `row`.

        Raises:
            ImageError: it cannot be opened.
        """
        return encode_pixels(self.model, self.pixel_values(image))

    def conversation(
        self, image: ImageSource | None = None, language: Language = "auto", adapter: str | None = None
    ) -> Conversation:
        """A new dialogue, with a image if one is given, answered through an adapter if one is named."""
        return Conversation(self, image, language, adapter)

    def ask(self, image: ImageSource | None, question: str, language: Language = "auto", **sampling: Any) -> Answer:
        """One question about one image, without a memory."""
        return self.conversation(image, language).ask(question, **sampling)

    def caption(
        self,
        images: Sequence[ImageSource],
        question: str = QUESTIONS["zh"],
        language: Language = "auto",
        batch_size: int = 8,
        **sampling: Any,
    ) -> list[Answer]:
        """The same question about many images, `batch_size` at a time; each answer is that of `ask`, `seed` included.

        Raises:
            ImageError: one of the images cannot be opened.
            UsageError: `images` is one image, `batch_size` below 1, or `num_beams` above 1.
        """
        if isinstance(images, (str, bytes)) or not isinstance(images, Sequence) or batch_size < 1:
            raise UsageError("caption takes a list of images and a batch_size of at least 1: use ask for one image.")
        answers: list[Answer] = []
        for start in range(0, len(images), batch_size):
            answers += self._caption_batch(images[start : start + batch_size], question, language, sampling)
        return answers

    def _caption_batch(
        self, images: Sequence[ImageSource], question: str, language: Language, sampling: dict[str, Any]
    ) -> list[Answer]:
        started = time.perf_counter()
        rows = [self.row(self.encode(image), question, language, **sampling) for image in images]
        generate_batch(self.model, rows)
        seconds = time.perf_counter() - started
        return [self.row_answer(row, seconds) for row in rows]

    def row(
        self,
        image_embeds: Tensor | None,
        question: str,
        language: Language = "auto",
        **sampling: Any,
    ) -> GenerationRow:
        """A question about an encoded image [1, image_length, hidden], or about none, for `generate_batch`.

        Raises:
            PromptError: the question does not fit into the model.
        """
        settings = generation_settings(self.model, **forbid_chinese_tokens(self.tokenizer, language, sampling))
        turn = Turn(question, image_count=0 if image_embeds is None else 1)
        prompt = ask_prompt(self.processor, [turn], language, settings.limits)
        return GenerationRow(prompt.input_ids, image_embeds, settings)

    def row_answer(self, row: GenerationRow, seconds: float = 0.0) -> Answer:
        """What a finished row says."""
        ended = bool(row.ids) and row.ids[-1] in row.eos
        text = process_response(self.tokenizer.decode(row.ids[:-1] if ended else row.ids))
        return Answer(text, "stop" if ended else "length", len(row.input_ids), len(row.ids), seconds)


def load(
    name_or_dir: str | Path | None = None,
    *,
    tokenizer: str | Path | None = None,
    adapter: str | Path | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    upstream_images: bool = False,
    quantize: int | None = None,
    quantize_vision: int | None = None,
    quantize_vocabulary: int | None = None,
    compile: bool = False,
    **kwargs: Any,
) -> VisualGLM:
    """Opens a model: the packed one, a folder of any format, or a hub id.

    Args:
        name_or_dir: None for the packed miniature.
        tokenizer: the vocabulary file or its folder, where it does not lie beside the weights.
        adapter: what `visualglm finetune` trained on this model: `DIR`, or `DIR@STEP` for one of its checkpoints.
        device: `auto` (cuda, then mps, then cpu), or a torch device.
        dtype: `auto`: the checkpoint's on a GPU; on a CPU float32 up to a billion parameters, bfloat16 above.
        upstream_images: open images as upstream did: EXIF orientation ignored, transparency dropped.
        quantize: 8 or 4 stores the language model's linears in so many bits, while they are read: the 16-bit weights
            are never in memory together. A folder that `visualglm quantize` wrote needs no flag.
        quantize_vision: 8 or 4 does the same to ViT, Q-Former and projection.
        quantize_vocabulary: 8 does the same to the word embeddings and the head.
        compile: compiles the step that makes one token into one graph of the GPU. The first answer waits for that, and
            so does the first one longer than all before.
        kwargs: more arguments of `from_pretrained` (`device_map`, `attn_implementation`, ...).

    Raises:
        CheckpointError: the files are not a complete VisualGLM checkpoint.
        TokenizerError: the vocabulary file that was given is none.
        QuantizationError: other numbers of bits.
        UsageError: this machine has no such device, the checkpoint is quantized already, or `compile` without a GPU.
    """
    folder = packed_model() if name_or_dir is None else local_folder(name_or_dir)
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


def packed_model() -> Path:
    """The folder of the packed model, for `load` and transformers' Auto classes."""
    return Path(__file__).parent / "mini"
