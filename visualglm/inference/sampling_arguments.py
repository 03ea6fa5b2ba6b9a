"""Read the sampling arguments of a dialogue: one meaning in every interface.

Python, the command line, the HTTP APIs and vLLM's defaults all pass what a user gave through `normalize_sampling`.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig, GenerationMixin

from ..errors import UsageError

MIN_TEMPERATURE = 1e-3
"""A temperature below this is greedy: logits divided by less overflow."""

SAMPLING_SWITCHES = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Arguments that mean sampling where `do_sample` is not given."""

RESERVED = frozenset(
    {
        *("generation_config", "streamer", "stopping_criteria", "return_dict_in_generate", "inputs", "input_ids"),
        *("kwargs", "is_assistant", "custom_generate", "trust_remote_code"),
    }
)
"""`generate` arguments set internally, or that run code of the hub; callers may not pass them."""

OWN = ("preset", "seed", "stop", "invalid_slices", "json_schema")
"""Arguments that `generate` does not have."""

OTHER_NAMES = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "max_output_tokens": "max_new_tokens",
    "num_predict": "max_new_tokens",
    "stop_strings": "stop",
    "stop_sequences": "stop",
    "sample": "do_sample",
    "random_seed": "seed",
    "repeat_penalty": "repetition_penalty",
    "response_format": "json_schema",
}
"""Names of other libraries and APIs -> ours, for the error message."""

MAX_STOP_STRINGS, MAX_STOP_CHARACTERS = 16, 1000

NAMES = frozenset(
    {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    | set(inspect.signature(GenerationMixin.generate).parameters)
    | set(OWN)
) - {"self", "stop_strings", *RESERVED}


def normalize_sampling(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that are not None, with `do_sample` set where they mean sampling.

    `SAMPLING_SWITCHES` mean sampling unless `do_sample` is given, but a `top_k` of 0, which is no limit, does not; a
    temperature below `MIN_TEMPERATURE` is 0, which is greedy.

    Raises:
        UsageError: a name is unknown or reserved, or the preset "greedy" is given with a switch.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    for name in given:
        if name not in NAMES:
            raise UsageError(_unknown(name))
    temperature = given.get("temperature")
    if isinstance(temperature, (int, float)) and 0 <= temperature < MIN_TEMPERATURE:
        return {**given, "temperature": 0}
    switches = [name for name in SAMPLING_SWITCHES if name in given and (name, given[name]) != ("top_k", 0)]
    if switches and "do_sample" not in given:
        if given.get("preset") == "greedy":
            raise UsageError(f"The preset greedy contradicts {switches[0]}. Remove one of them.")
        given["do_sample"] = True
    return given


def split_stop_strings(arguments: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Take `stop` (a string or a list of strings) out of the arguments.

    Raises:
        UsageError: it holds anything but text, or too much of it.
    """
    rest = {name: value for name, value in arguments.items() if name != "stop"}
    stop = arguments.get("stop")
    stops = [stop] if isinstance(stop, str) else list(stop) if isinstance(stop, (list, tuple)) else stop
    if stops is None:
        return [], rest
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise UsageError("stop is neither text nor a list of texts. Give for example stop=['\\n'].")
    if len(stops) > MAX_STOP_STRINGS or any(len(text) > MAX_STOP_CHARACTERS for text in stops):
        raise UsageError(
            f"stop holds more than {MAX_STOP_STRINGS} strings or {MAX_STOP_CHARACTERS} characters. Give fewer."
        )
    return [text for text in stops if text], rest


def _unknown(name: str) -> str:
    if name in RESERVED:
        return f"{name} cannot be given here. Pass sampling arguments, or use model.generate."
    known = OTHER_NAMES.get(name)
    near = [known] if known else difflib.get_close_matches(name, sorted(NAMES), n=1, cutoff=0.6)
    hint = f"Did you mean {near[0]}?" if near else "Use transformers' names, such as max_new_tokens or temperature."
    return f"There is no sampling argument {name[:60]!r}. {hint}"
