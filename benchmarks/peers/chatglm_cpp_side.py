"""The chatglm.cpp process of `beside_cpp.py`, run by a Python with that package.

    write FILE BITS      random weights of ChatGLM-6B's shapes, quantized and written by the package's own converter
    serve FILE           answers `prompt N` (N tokens from the start) and `token` (one more), by `side.py`

It does not import our package.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from side import serve

CONFIG = {
    "position_encoding_2d": True,
    "vocab_size": 130528,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_layers": 28,
    "inner_hidden_size": 16384,
    "layernorm_epsilon": 1e-5,
    "pre_seq_len": None,
    "max_sequence_length": 2048,
    "bos_token_id": 130004,
    "eos_token_id": 130005,
    "pad_token_id": 3,
    "quantization_bit": 0,
}
VOCABULARY = Path(__file__).parents[2] / "tests" / "reference" / "hf" / "ice_text.model"


class RandomState(dict[str, torch.Tensor]):
    """A state dict that creates each tensor on request; the head is the embedding, as the converter requires."""

    def __missing__(self, name: str) -> torch.Tensor:
        if name == "lm_head.weight":
            name = "transformer.word_embeddings.weight"
        generator = torch.Generator().manual_seed(len(name))
        return torch.empty(shape_of(name)).normal_(std=0.02, generator=generator) + (name.endswith("norm.weight"))


def shape_of(name: str) -> tuple[int, ...]:
    """Return the shape of a tensor of the 6B's language model."""
    width, inner = CONFIG["hidden_size"], CONFIG["inner_hidden_size"]
    rows = {"query_key_value": 3 * width, "dense_h_to_4h": inner, "word_embeddings": CONFIG["vocab_size"]}
    part, kind = name.split(".")[-2:]
    out = rows.get(part, width)
    return (out,) if kind == "bias" or "norm" in part else (out, inner if part == "dense_4h_to_h" else width)


def write(file: Path, bits: int) -> None:
    """Run the package's own conversion on a model of random tensors."""
    from chatglm_cpp.convert import ChatGLMConverter, GGMLType

    proto = VOCABULARY.read_bytes()
    sentencepiece = SimpleNamespace(serialized_model_proto=lambda: proto)
    tokenizer = SimpleNamespace(sp_tokenizer=SimpleNamespace(text_tokenizer=SimpleNamespace(sp=sentencepiece)))
    state = RandomState()
    model = SimpleNamespace(config=SimpleNamespace(**CONFIG), state_dict=lambda: state)
    with file.open("wb") as target:
        ChatGLMConverter.convert(target, model, tokenizer, GGMLType.Q4_0 if bits == 4 else GGMLType.Q8_0)


def answer(file: Path) -> None:
    """Answer requests; `beside_cpp.py` asks both sides in turn."""
    import chatglm_cpp

    model = chatglm_cpp.Pipeline(str(file)).model
    settings: Any = chatglm_cpp._C.GenerationConfig(do_sample=False)
    start: list[int] = []
    ids: list[int] = []

    def read_prompt(tokens: str) -> None:
        start[:] = [*range(5, 5 + int(tokens) - 2), 130001, 130004]
        ids[:] = start
        ids.append(model.generate_next_token(ids, None, settings, 0, len(start)))

    def add_token() -> None:
        ids.append(model.generate_next_token(ids, None, settings, len(ids) - 1, len(start)))

    serve(file.stat().st_size, {"prompt": read_prompt, "token": add_token})


if __name__ == "__main__":
    action, target, *bits = sys.argv[1:]
    if action == "write":
        write(Path(target), int(bits[0]))
    else:
        answer(Path(target))
