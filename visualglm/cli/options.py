"""The flags that several verbs share, and how they open a model."""

from __future__ import annotations

import functools
import locale
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from ..errors import UsageError
from ..hardware.threads import set_threads

if TYPE_CHECKING:
    from ..conversation import VisualGLM

Language = Literal["auto", "zh", "en"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Preset = Literal["hf", "sat", "sat_cli"]
SIX_B = "6b"
"""What `--model` may say where the full size is wanted without a checkpoint."""

Model = Annotated[
    str | None,
    typer.Option(help="A folder of any format (Hugging Face, sat, ours) or a hub id; default: the packed miniature."),
]
Tokenizer = Annotated[
    str | None, typer.Option(help="The vocabulary file ice_text.model, or its folder, if not beside the weights.")
]
Adapter = Annotated[str | None, typer.Option(help="What `visualglm finetune` trained: its folder, or FOLDER@STEP.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
DtypeOption = Annotated[Dtype, typer.Option(help="What to compute in.")]
Quantize = Annotated[
    Literal["8", "4"] | None, typer.Option(help="Bits of the language model's weights, made while they are read.")
]
QuantizeVision = Annotated[Literal["8", "4"] | None, typer.Option(help="The same for the picture's side.")]
QuantizeVocabulary = Annotated[Literal["8"] | None, typer.Option(help="The same for word embeddings and head.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads that compute; default: what may be used here.")]
Compile = Annotated[
    bool, typer.Option("--compile", help="Faster answers on a GPU, where the first one waits for the compiler.")
]
LanguageOption = Annotated[Language, typer.Option(help="问/答 or Q/A; auto: by the question.")]
Greedy = Annotated[bool, typer.Option("--greedy", help="Always the likeliest token.")]
Seed = Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same answer.")]
PresetOption = Annotated[
    Preset | None, typer.Option(help="Upstream's sampling: its Hugging Face code's, sat's, sat's command line's.")
]
Temperature = Annotated[float | None, typer.Option(min=0, help="0 is --greedy.")]
TopP = Annotated[float | None, typer.Option(min=0, max=1)]
TopK = Annotated[int | None, typer.Option(min=0)]
RepetitionPenalty = Annotated[float | None, typer.Option(min=0.01)]
MaxLength = Annotated[int | None, typer.Option(min=1, help="Where prompt and answer together must stop.")]
MaxNewTokens = Annotated[int | None, typer.Option(min=1, help="Where the answer must stop.")]
UpstreamImages = Annotated[
    bool, typer.Option("--upstream-images", help="Ignore EXIF orientation and drop transparency, as upstream did.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")]


@dataclass(frozen=True)
class Flags:
    """What every verb that answers lets one choose: the model, and how its tokens are taken."""

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
    upstream_images: UpstreamImages = False

    def sampling(self) -> dict[str, Any]:
        """The sampling arguments that were given; a temperature above 0 or a top_p samples, as in the APIs.

        Raises:
            UsageError: two of them contradict each other, or one is no number to compute with.
        """
        given = {name: getattr(self, name) for name in SAMPLING if getattr(self, name) is not None}
        if self.greedy and (self.temperature or self.preset):
            raise UsageError("--greedy takes the likeliest token, so leave --temperature and --preset out.")
        unusable = [name for name, value in given.items() if isinstance(value, float) and not math.isfinite(value)]
        if unusable:
            raise UsageError(f"--{unusable[0].replace('_', '-')} must be a finite number.")
        if self.greedy:
            return {"do_sample": False, **given}
        return {"do_sample": True, **given} if self.temperature or self.top_p is not None else given

    def anywhere(self) -> Flags:
        """The same, with the paths that exist made absolute: for processes that work in other folders."""
        from ..adapters.files import split_step

        places = {name: (Path(place), "") for name in ("model", "tokenizer") if (place := getattr(self, name))}
        if self.adapter:
            places["adapter"] = split_step(self.adapter)
        paths: dict[str, Any] = {
            name: f"{folder.absolute()}{step and '@' + step}"
            for name, (folder, step) in places.items()
            if folder.exists()
        }
        return replace(self, **paths)

    def open_model(self) -> VisualGLM:
        """Loads the model without transformers' progress bars and notices on the terminal."""
        from ..conversation import load

        set_threads(self.threads)
        quiet_transformers()
        return load(
            self.model,
            tokenizer=self.tokenizer,
            adapter=self.adapter,
            device=self.device,
            dtype=self.dtype,
            upstream_images=self.upstream_images,
            quantize=bits(self.quantize),
            quantize_vision=bits(self.quantize_vision),
            quantize_vocabulary=bits(self.quantize_vocabulary),
            compile=self.compile,
        )


def quiet_transformers() -> None:
    """No progress bars and notices of transformers on the terminal."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def bits(given: str | None) -> int | None:
    """A flag's value as a number."""
    return None if given is None else int(given)


SAMPLING = ("seed", "preset", "temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens", "max_length")


def with_flags(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb that takes `flags: Flags` -> one that has each of them as an option of its own, as typer wants it.

    A flag that the verb declares itself is the verb's, and keeps its default in `flags`.
    """
    own, shared = (get_type_hints(source, include_extras=True) for source in (verb, Flags))
    shared = {name: hint for name, hint in shared.items() if name not in own}
    parameters = [
        parameter.replace(annotation=own[name], kind=Parameter.KEYWORD_ONLY)
        for name, parameter in signature(verb).parameters.items()
        if name != "flags"
    ]
    parameters += [
        Parameter(flag.name, Parameter.KEYWORD_ONLY, default=flag.default, annotation=shared[flag.name])
        for flag in fields(Flags)
        if flag.name in shared
    ]

    @functools.wraps(verb)
    def run(**values: Any) -> None:
        flags = Flags(**{name: values.pop(name) for name in shared})
        verb(**values, flags=flags)

    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def spoken_language(language: Language) -> Literal["zh", "en"]:
    """The language of greetings and notes where no question tells: the flag's, else the system's."""
    if language != "auto":
        return language
    names = [os.environ.get(name, "") for name in ("LC_ALL", "LC_MESSAGES", "LANG")]
    system = next((name for name in names if name), locale.getlocale()[0] or "")
    return "zh" if system.lower().startswith(("zh", "chinese")) else "en"
