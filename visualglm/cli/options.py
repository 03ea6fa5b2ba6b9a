"""Options shared by several verbs; loads the model that they describe."""

from __future__ import annotations

import functools
import gc
import importlib
import locale
import logging
import math
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from ..errors import UsageError, visible
from ..hardware.threads import set_threads
from .grouped_help import data_option, model_option, output_option, performance_option, sampling_option

if TYPE_CHECKING:
    from ..conversation import VisualGLM

Language = Literal["auto", "zh", "en"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Preset = Literal["hf", "sat", "sat_cli"]
SIX_B = "6b"
"""Value of `--model` that means the full-size model without a checkpoint."""
MODEL_VARIABLE = "VISUALGLM_MODEL"
"""Environment variable that names the default of `--model`."""
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")

Model = Annotated[
    str | None,
    model_option(
        envvar=MODEL_VARIABLE,
        metavar="MODEL",
        help="Checkpoint folder (Hugging Face, sat or native format) or hub id. Default: the packed model.",
    ),
]
Tokenizer = Annotated[
    str | None,
    model_option(metavar="PATH", help="Vocabulary file ice_text.model or its folder. Default: beside the weights."),
]
Adapter = Annotated[
    str | None,
    model_option(metavar="DIR", help="Adapter from `visualglm finetune`: its folder, or DIR@STEP."),
]
Device = Annotated[str, performance_option(metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps.")]
DtypeOption = Annotated[
    Dtype, performance_option(metavar="DTYPE", help="Compute dtype: auto, float32, bfloat16 or float16.")
]
Quantize = Annotated[
    Literal["8", "4"] | None,
    performance_option(metavar="8|4", help="Quantize the language model to 8 or 4 bits while loading."),
]
QuantizeVision = Annotated[
    Literal["8", "4"] | None,
    performance_option(metavar="8|4", help="Also quantize the vision encoder and Q-Former."),
]
QuantizeVocabulary = Annotated[
    Literal["8"] | None,
    performance_option(metavar="8", help="Also quantize word embeddings and LM head."),
]
Threads = Annotated[
    int | None,
    performance_option(min=1, metavar="N", help="CPU threads. Default: the container's limit."),
]
Compile = Annotated[
    bool,
    performance_option(
        "--compile", help="Compile decoding steps (GPU only): the first answer is slow, later ones are fast."
    ),
]
LanguageOption = Annotated[
    Language,
    model_option(metavar="auto|zh|en", help="Prompt language: 问/答 (zh) or Q/A (en); auto follows the question."),
]
Greedy = Annotated[bool, sampling_option("--greedy", help="Greedy decoding.")]
Seed = Annotated[
    int | None,
    sampling_option(min=0, max=2**63 - 1, metavar="N", help="Random seed; makes sampling repeatable."),
]
PresetOption = Annotated[
    Preset | None,
    sampling_option(
        metavar="hf|sat|sat_cli",
        help="Upstream's sampling settings: of its Hugging Face code, its sat code, or sat's command line.",
    ),
]
Temperature = Annotated[
    float | None,
    sampling_option(min=0, metavar="X", help="Sampling temperature; 0 is greedy."),
]
TopP = Annotated[
    float | None,
    sampling_option(
        min=0, max=1, metavar="P", help="Sample from the most likely tokens whose probabilities add up to P."
    ),
]
TopK = Annotated[
    int | None,
    sampling_option(min=0, metavar="K", help="Sample from the K most likely tokens; 0: all."),
]
RepetitionPenalty = Annotated[
    float | None,
    sampling_option(min=0.01, metavar="X", help="Above 1, tokens that occurred before become less likely."),
]
MaxLength = Annotated[
    int | None,
    sampling_option(min=1, metavar="N", help="Maximum tokens of prompt and answer together."),
]
Stop = Annotated[
    list[str] | None, sampling_option("--stop", metavar="TEXT", help="End the answer before TEXT; may be repeated.")
]
MaxNewTokens = Annotated[int | None, sampling_option(min=1, metavar="N", help="Maximum new tokens.")]
UpstreamImages = Annotated[
    bool,
    data_option("--upstream-images", help="Ignore EXIF orientation and drop transparency, as upstream did."),
]
Json = Annotated[bool, output_option("--json", help="Print one JSON object.")]
ImageArgument = Annotated[str, typer.Argument(metavar="IMAGE", help="Path of the image; - reads it from stdin.")]
OptionalQuestion = Annotated[
    str | None,
    typer.Argument(metavar="QUESTION", help="Question in Chinese or English. Default: describe the image."),
]


class OptionGroup:
    """Base of the dataclasses that hold options which several verbs share."""

    def check(self) -> None:
        """Refuse wrong values before torch is imported; does nothing unless overridden."""


@dataclass(frozen=True)
class Flags(OptionGroup):
    """Values of the options that every answering verb has: model, performance, sampling."""

    model: Model = None
    tokenizer: Tokenizer = None
    adapter: Adapter = None
    device: Device = "auto"
    dtype: DtypeOption = "auto"
    quantize: Quantize = None
    quantize_vision: QuantizeVision = None
    quantize_vocabulary: QuantizeVocabulary = None
    threads: Threads = None
    compile: Compile = False
    language: LanguageOption = "auto"
    greedy: Greedy = False
    seed: Seed = None
    preset: PresetOption = None
    temperature: Temperature = None
    top_p: TopP = None
    top_k: TopK = None
    repetition_penalty: RepetitionPenalty = None
    max_new_tokens: MaxNewTokens = None
    max_length: MaxLength = None
    stop: Stop = None
    upstream_images: UpstreamImages = False

    def check(self) -> None:
        """Refuse paths that do not exist and unknown devices, before torch is imported.

        Raises:
            CheckpointError: there is no such model.
            UsageError: there is no such vocabulary, adapter or device.
        """
        check_model(self.model)
        check_device(self.device)
        if self.tokenizer and not Path(self.tokenizer).exists():
            raise UsageError(f"There is no vocabulary {self.tokenizer}. Give ice_text.model or its folder.")
        if isinstance(self.adapter, str) and not any(
            Path(place).exists() for place in (self.adapter, self.adapter.rpartition("@")[0]) if place
        ):
            raise UsageError(f"There is no adapter {self.adapter}. Give the output folder of `visualglm finetune`.")

    def sampling(self) -> dict[str, Any]:
        """Return the sampling arguments that were given.

        Raises:
            UsageError: two of them contradict each other, or one is not finite.
        """
        given = {name: getattr(self, name) for name in SAMPLING_FLAGS if getattr(self, name) is not None}
        if self.greedy and (self.temperature or self.preset):
            raise UsageError("--greedy contradicts --temperature and --preset. Remove one of them.")
        not_finite = [name for name, value in given.items() if isinstance(value, float) and not math.isfinite(value)]
        if not_finite:
            raise UsageError(f"--{not_finite[0].replace('_', '-')} is not a finite number. Give one such as 0.8.")
        return {"do_sample": False, **given} if self.greedy else given

    def with_absolute_paths(self) -> Flags:
        """Return a copy in which existing paths are absolute, for processes that work in other folders."""
        from ..adapters.files import split_step

        paths = {name: (Path(path), "") for name in ("model", "tokenizer") if (path := getattr(self, name))}
        if self.adapter:
            paths["adapter"] = split_step(self.adapter)
        absolute: dict[str, Any] = {
            name: f"{path.absolute()}{step and '@' + step}" for name, (path, step) in paths.items() if path.exists()
        }
        return replace(self, **absolute)

    def open_model(self) -> VisualGLM:
        """Load the model, without transformers' progress bars and warnings; a terminal is told what it waits for."""
        announce_opening(self.model, self.language)
        import_libraries()
        from ..conversation import load

        set_threads(self.threads)
        quiet_libraries()
        return load(
            self.model,
            tokenizer=self.tokenizer,
            adapter=self.adapter,
            device=self.device,
            dtype=self.dtype,
            upstream_images=self.upstream_images,
            quantize=parse_bits(self.quantize),
            quantize_vision=parse_bits(self.quantize_vision),
            quantize_vocabulary=parse_bits(self.quantize_vocabulary),
            compile=self.compile,
        )

    def default_question(self) -> str:
        """Return the question that asks for a description, in the language of the program's own messages."""
        from ..preprocessing.describe_questions import DEFAULT_QUESTIONS

        return DEFAULT_QUESTIONS[interface_language(self.language)]


def announce_opening(model: str | None, language: Language) -> None:
    """Say on a terminal that the model is being opened: importing torch takes seconds, reading the 6B minutes."""
    if sys.stderr.isatty():
        name = model or "visualglm-mini"
        text = f"正在打开 {name} ……" if interface_language(language) == "zh" else f"opening {name} ..."
        print(visible(text), file=sys.stderr)


def import_libraries() -> None:
    """Import torch, transformers and our model without searching their objects for garbage, now or later.

    The searches during the imports and the one at exit would take two fifths of the time of a first answer.
    """
    if "visualglm.conversation" in sys.modules:
        return
    gc.disable()
    try:
        importlib.import_module("visualglm.conversation")
    finally:
        gc.enable()
    gc.freeze()


def check_model(name: str | Path | None) -> None:
    """Refuse a path that does not exist; a hub id and None pass. Imports nothing heavy.

    Raises:
        CheckpointError: there is no such folder or file.
    """
    from ..hub.local_folder import find_local

    if name:
        find_local(name)


def check_device(name: str) -> None:
    """Refuse a device of another name; whether this machine has it is seen when torch is imported.

    Raises:
        UsageError: the name is unknown.
    """
    if DEVICE.fullmatch(name) is None:
        raise UsageError(f"Unknown device {name!r}. Use auto, cpu, cuda, cuda:1 or mps.")


def quiet_libraries() -> None:
    """Turn off transformers' progress bars and warnings, and bitsandbytes' hint at kernels of a hub."""
    import transformers

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def parse_bits(value: str | None) -> int | None:
    """Return the value of a quantization flag as a number."""
    return None if value is None else int(value)


SAMPLING_FLAGS = (
    "seed",
    "preset",
    "temperature",
    "top_p",
    "top_k",
    "repetition_penalty",
    "max_new_tokens",
    "max_length",
    "stop",
)


def with_flags(verb: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter of a verb whose type is a dataclass of options by one typer option per field.

    `Flags` comes last. An option that the verb or an earlier dataclass declares replaces one of the same name, whose
    field keeps its default.
    """
    hints: dict[str, Any] = get_type_hints(verb, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: dict[str, Parameter] = {}
    shared: dict[str, list[str]] = {}
    for name, parameter in sorted(signature(verb).parameters.items(), key=lambda item: hints[item[0]] is Flags):
        if name not in groups:
            parameters[name] = parameter.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY)
            continue
        types = get_type_hints(groups[name], include_extras=True)
        new = {flag.name: flag.default for flag in fields(groups[name]) if flag.name not in hints | parameters}
        shared[name] = list(new)
        for flag, default in new.items():
            parameters[flag] = Parameter(flag, Parameter.KEYWORD_ONLY, default=default, annotation=types[flag])

    @functools.wraps(verb)
    def run(**values: Any) -> None:
        given = {name: groups[name](**{flag: values.pop(flag) for flag in new}) for name, new in shared.items()}
        for group in given.values():
            group.check()
        verb(**values, **given)

    run.__signature__ = Signature(list(parameters.values()))  # type: ignore[attr-defined]
    run.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    return run


def interface_language(language: Language) -> Literal["zh", "en"]:
    """Return the language of the program's own messages: the flag's, or for `auto` the system's."""
    if language != "auto":
        return language
    names = [os.environ.get(name, "") for name in ("LC_ALL", "LC_MESSAGES", "LANG")]
    system = next((name for name in names if name), locale.getlocale()[0] or "")
    return "zh" if system.lower().startswith(("zh", "chinese")) else "en"
