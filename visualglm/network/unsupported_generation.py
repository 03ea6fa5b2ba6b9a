"""Refuse methods of transformers' `generate` that cannot work here."""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig

from ..errors import UsageError

CONTINUOUS_BATCHING = (
    "transformers' continuous batching is not supported: it has no prefix mask and no images. Call generate "
    "with a padded batch, or run `visualglm serve` or vLLM, which batch requests."
)


MOVED = {
    "num_beam_groups": "group beam search",
    "penalty_alpha": "contrastive search",
    "dola_layers": "DoLa",
    "constraints": "constrained beam search",
    "force_words_ids": "constrained beam search",
}
"""Settings of methods that transformers runs as code downloaded from the hub, which knows no prefix mask."""
OTHER_MODELS = ("assistant_early_exit", "use_mtp")
"""Settings for models with early exits or several prediction heads."""


def check_generation_methods(config: GenerationConfig, arguments: dict[str, Any]) -> None:
    """Raise `UsageError` for settings that this architecture does not support; `arguments` override `config`."""

    def setting(name: str) -> Any:
        return arguments.get(name, getattr(config, name, None))

    if setting("prefill_chunk_size") is not None:
        raise UsageError(
            "prefill_chunk_size is not supported: attention over a prompt is bidirectional, so a part of it cannot be "
            "computed alone. Remove prefill_chunk_size."
        )
    if setting("token_healing"):
        raise UsageError(
            "token_healing is not supported: a prompt ends with [gMASK] <sop>, and no text follows that could be "
            "replaced. Remove token_healing."
        )
    for name, method in MOVED.items():
        if setting(name) not in (None, 1):
            raise UsageError(
                f"{name} asks for {method}, which transformers runs as code from the hub, and which is not supported. "
                f"Remove {name}, or use num_beams or do_sample."
            )
    other = next((name for name in OTHER_MODELS if setting(name)), None)
    if other is not None:
        raise UsageError(f"{other} is not supported: this model has one prediction head. Give assistant_model instead.")
    if setting("cache_implementation") == "paged":
        raise UsageError(CONTINUOUS_BATCHING)
    if setting("guidance_scale") not in (None, 1) and arguments.get("negative_prompt_ids") is None:
        raise UsageError(
            "guidance_scale needs a prompt without guidance, and the last token alone is not a prompt. Give "
            "negative_prompt_ids that end with [gMASK] <sop>, or remove guidance_scale."
        )


class NoContinuousBatching:
    """Replaces transformers' continuous batching, whose paged attention has neither a prefix mask nor images."""

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Raise `UsageError`; transformers' other methods of continuous batching call this one."""
        raise UsageError(CONTINUOUS_BATCHING)

    def generate_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Raise `UsageError`, see `init_continuous_batching`."""
        return self.init_continuous_batching()
