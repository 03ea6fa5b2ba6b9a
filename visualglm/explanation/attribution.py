"""Attribute the tokens of an answer to image patches, through the attention of the language model and the Q-Former.

    answer tokens -- language model --> queries [A, Q] -- Q-Former --> patches [Q, N]; their product is [A, N]

A is the number of answer tokens, Q of queries, N of patches, row by row; every row is a distribution (it sums to 1).
`rollout` multiplies the attention of all layers, averaged over heads, half of each layer being its residual (Abnar and
Zuidema 2020, arXiv 2005.00928). `gradient` weights every head by the positive part of the gradient of the answer's log
probability (Chefer, Gur and Wolf 2021, arXiv 2103.15679) in the language model and the Q-Former's cross-attention. The
attention inside the vision encoder is not followed: a patch means the feature at its position. `deletion.py`
measures whether a map holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import PromptError, UsageError
from ..network.attention import split_heads
from ..network.visualglm import VisualGLMNetwork

Method = Literal["rollout", "gradient"]


@dataclass(frozen=True)
class Attribution:
    """Maps of an answer, in float32 on the CPU: each row of `queries` [A, Q] and of `patches` [Q, N] sums to 1.

    `log_probabilities` [A] are those of the answer's tokens.
    """

    queries: Tensor
    patches: Tensor
    log_probabilities: Tensor

    @property
    def maps(self) -> Tensor:
        """Patches of each answer token [A, N]; each row sums to 1."""
        return self.queries @ self.patches


@torch.inference_mode(False)
def attribute(
    network: VisualGLMNetwork,
    input_ids: Tensor,
    answer_length: int,
    pixel_values: Tensor,
    attention_mask: Tensor | None = None,
    method: Method = "rollout",
) -> Attribution:
    """Attribute the last `answer_length` ids of a prompt with its answer, in one forward pass.

    Args:
        input_ids: [1, T], the prompt with the placeholder tokens of one image, then the answer without `<eop>`.
        pixel_values: [1, 3, H, W].
        attention_mask: [1, T], 0 at pads before the prompt.

    Raises:
        UsageError: an unknown method.
        PromptError: the answer is empty, or the prompt has not one image.
    """
    check_method(method)
    input_ids = input_ids.to(network.device)
    prompt = input_ids[0, : input_ids.shape[1] - answer_length]
    placeholders = torch.nonzero(torch.eq(prompt, network.config.image_token_id or -1))[:, 0]
    if answer_length < 1 or len(placeholders) != network.config.image_length:
        raise PromptError("An explanation needs an answer that is not empty, and one image. Ask about one image.")
    with torch.set_grad_enabled(method == "gradient"):
        self_attentions, crossed, embeds = _read_image(network, pixel_values)
        mask = None if attention_mask is None else attention_mask.to(network.device)
        attentions, logits = _read_text(network, input_ids, embeds, mask, answer_length, method)
        likely = log_probabilities(logits, input_ids, answer_length)[0]
        if method == "gradient":
            attentions, crossed = _weight_by_gradient(likely.sum(), attentions, crossed)
    own = method == "rollout"
    rows = _roll_back(attentions, input_ids.shape[1], answer_length, own)
    return Attribution(
        _normalize(rows[:, placeholders.to(rows.device)]).cpu(),
        _patches_of_queries(self_attentions, crossed, own).cpu(),
        likely.detach().cpu(),
    )


def check_method(method: str) -> None:
    """Raise `UsageError` for an unknown method."""
    if method not in get_args(Method):
        raise UsageError(f"There is no method {method!r:.40}. Choose rollout or gradient.")


def log_probabilities(logits: Tensor, input_ids: Tensor, answer_length: int) -> Tensor:
    """Return the log probabilities [B, A] of the last ids, from the logits [B, A + 1, V] of the last positions."""
    chosen = input_ids[:, -answer_length:, None].to(logits.device)
    return logits[:, :-1].float().log_softmax(-1).gather(-1, chosen)[..., 0]


@contextmanager
def _hooked(modules: Sequence[nn.Module], hook: Any) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _read_image(network: VisualGLMNetwork, pixel_values: Tensor) -> tuple[list[Tensor], list[Tensor | None], Tensor]:
    """Encode the image; return self-attention [Q, Q] of each Q-Former layer, cross-attention [1, heads, Q, 1 + N] of
    each or None, and the embeddings of the placeholder tokens."""
    encoder = network.image_encoder
    layers: Any = encoder.qformer.transformer.layers
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, fused: Tensor) -> None:
        heads = encoder.qformer.config.num_attention_heads
        query, key, _ = (split_heads(x.detach().float(), heads) for x in fused.chunk(3, -1))
        kept.append((query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(-1).mean(1)[0])

    with torch.no_grad():
        features, pooled = encoder.read(pixel_values.to(network.device))
    if torch.is_grad_enabled():
        features.requires_grad_()
    with _hooked([layer.attention.query_key_value for layer in layers], keep):
        queries, attentions = encoder.qformer(features, True)
    left = iter(attentions)
    crossed = [next(left) if layer.has_cross_attention else None for layer in layers]
    return kept, crossed, encoder.project(queries, pooled)


def _read_text(
    network: VisualGLMNetwork,
    input_ids: Tensor,
    image_embeds: Tensor,
    attention_mask: Tensor | None,
    answer_length: int,
    method: Method,
) -> tuple[list[Tensor], Tensor]:
    """Return the attention of each block, and the logits of the last `answer_length` + 1 positions.

    The attention is [T, T], averaged over heads, or for `gradient` [1, heads, T, keys] as it was computed.
    """
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, None]:
        context, probabilities = output
        kept.append(probabilities if method == "gradient" else _mean_of_heads(probabilities))
        return context, None  # the heads of a block are freed before the next one

    layers: Any = network.transformer.layers
    with _hooked([layer.attention for layer in layers], keep):
        output = network(
            input_ids=input_ids,
            image_embeds=image_embeds,
            attention_mask=attention_mask,
            use_cache=False,
            output_attentions=True,
            logits_to_keep=answer_length + 1,
        )
    return kept, output.logits


def _mean_of_heads(attention: Tensor) -> Tensor:
    """Average [1, heads, queries, keys] over heads in float32, one head at a time: [queries, keys]."""
    total = torch.zeros(attention.shape[2:], device=attention.device)
    for head in attention[0]:
        total += head
    return total / attention.shape[1]


def _weight_by_gradient(
    log_probability: Tensor, attentions: list[Tensor], crossed: list[Tensor | None]
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Return the mean over heads of each attention times the positive part of its gradient.

    A part that cannot change the answer, as the last block's other rows, has no gradient: its weight is 0.
    """
    inputs = [*attentions, *(one for one in crossed if one is not None)]
    gradients = torch.autograd.grad(log_probability, inputs, allow_unused=True)
    weighted = [
        _mean_of_heads(one.detach() * (torch.zeros_like(one) if gradient is None else gradient.clamp(min=0)))
        for one, gradient in zip(inputs, gradients, strict=True)
    ]
    left = iter(weighted[len(attentions) :])
    return weighted[: len(attentions)], [None if one is None else next(left) for one in crossed]


def _roll_back(attentions: Sequence[Tensor], length: int, answer_length: int, normalized: bool) -> Tensor:
    """Follow the positions that predict the answer [A, T] from the last block to the embeddings.

    `normalized`: half of each block is its residual; otherwise the attention is added to the residual. Columns of a
    learned prefix (P-tuning), which come first, are left out.
    """
    device = attentions[-1].device
    rows = torch.eye(length, device=device)[length - answer_length - 1 : -1]
    for attention in reversed(attentions):
        rows = rows.to(attention.device)
        mixed = rows + rows @ attention[:, -length:]
        rows = mixed / 2 if normalized else mixed
    return rows


def _patches_of_queries(
    self_attentions: Sequence[Tensor], crossed: Sequence[Tensor | None], normalized: bool
) -> Tensor:
    """Roll the Q-Former's attention out: patches of each query [Q, N], without the class token."""
    reached: Tensor | None = None
    for own, cross in zip(self_attentions, crossed, strict=True):
        if reached is not None:
            reached = (reached + own.to(reached.device) @ reached) / 2
        if cross is None:
            continue
        patches = cross if cross.dim() == 2 else _mean_of_heads(cross)
        reached = torch.zeros_like(patches) if reached is None else reached
        reached = (reached.to(patches.device) + patches) / (2 if normalized else 1)
    if reached is None:
        raise UsageError("The Q-Former of this model has no cross-attention, so no patch can be attributed.")
    return _normalize(reached[:, 1:])


def _normalize(rows: Tensor) -> Tensor:
    """Make each row sum to 1; a row of zeros becomes uniform."""
    rows = rows.float()
    total = rows.sum(-1, keepdim=True)
    return torch.where(total > 0, rows / total.clamp(min=torch.finfo(rows.dtype).tiny), 1 / rows.shape[-1])
