"""Upstream's own code, run by a Python with the versions that it needs.

    upstream_side.py BLOCKS [DEVICE]

`deep_training.nlp.models.visualglm` is upstream's remote code with only imports changed; its image encoder is sat's. It
runs in bfloat16 on a CPU, and in upstream's float16 on a GPU. It does not import our package.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from import_upstream import import_upstream
from side import serve

VIT = {
    "num_layers": 39,
    "hidden_size": 1408,
    "num_attention_heads": 16,
    "vocab_size": 1,
    "layernorm_order": "pre",
    "model_parallel_size": 1,
    "max_sequence_length": 257,
    "inner_hidden_size": 6144,
    "use_final_layernorm": False,
    "layernorm_epsilon": 1e-6,
    "image_size": [224, 224],
    "pre_len": 1,
    "post_len": 0,
    "in_channels": 3,
    "num_classes": 0,
    "patch_size": 14,
}
QFORMER = {
    "num_layers": 12,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "vocab_size": 32,
    "layernorm_order": "post",
    "model_parallel_size": 1,
    "max_sequence_length": 0,
    "is_decoder": [True, False] * 6,
    "cross_attn_hidden_size": 1408,
    "layernorm_epsilon": 1e-12,
}
GLM = {
    "vocab_size": 130528,
    "hidden_size": 4096,
    "inner_hidden_size": 16384,
    "num_attention_heads": 32,
    "bos_token_id": 130004,
    "eos_token_id": 130005,
    "mask_token_id": 130000,
    "gmask_token_id": 130001,
    "pad_token_id": 3,
    "use_cache": True,
}


class Upstream:
    """Upstream's model and its current dialogue."""

    def __init__(self, blocks: int, device: str) -> None:
        self.device, dtype = device, torch.bfloat16 if device == "cpu" else torch.float16
        self.model = random_model(blocks, device, dtype)
        self.image_values = torch.randn(1, 3, 224, 224).to(device, dtype)
        self.ids: Any = None
        self.step: Any = None
        self.written = 0

    def image(self) -> None:
        """Encode one image with ViT and Q-Former."""
        self.model.image_encoder(self.image_values)
        self.finish()

    def prompt(self, tokens: str) -> None:
        """Compute a prompt from the start."""
        words = torch.randint(4, 130000, (int(tokens) - 2,))
        self.ids = torch.cat([words, torch.tensor([GLM["gmask_token_id"], GLM["bos_token_id"]])])[None].to(self.device)
        self.step, self.written = self.model(self.ids), 0
        self.finish()

    def token(self) -> None:
        """Compute one more token, with positions as in upstream's `prepare_inputs_for_generation`."""
        self.written += 1
        position_ids = torch.tensor([[[self.ids.shape[1] - 2], [1 + self.written]]], device=self.device)
        ids = self.step.logits[:, -1:].argmax(-1)
        self.step = self.model(ids, position_ids=position_ids, past_key_values=self.step.past_key_values)
        self.finish()

    def finish(self) -> None:
        """Wait for a GPU, which still computes after a call returned."""
        if self.device != "cpu":
            torch.cuda.synchronize()


def random_model(blocks: int, device: str, dtype: torch.dtype) -> Any:
    """Build upstream's class with arbitrary weights: only speed is measured."""
    upstream = import_upstream("modeling_chatglm")
    config = upstream.ChatGLMConfig(**GLM, num_layers=blocks, eva_config=VIT, qformer_config=QFORMER)
    model = upstream.ChatGLMForConditionalGenerationWithImage(config).to(device, dtype).eval()
    for parameter in model.parameters():
        parameter.data.uniform_(-0.02, 0.02)
    return model


def main() -> None:
    """Answer requests; `beside_upstream.py` asks both sides in turn."""
    blocks, *device = sys.argv[1:]
    upstream = Upstream(int(blocks), *device or ["cpu"])
    parts = [upstream.model.transformer.layers, upstream.model.transformer.final_layernorm, upstream.model.lm_head]
    size = sum(parameter.nbytes for part in parts for parameter in part.parameters())
    with torch.inference_mode():
        serve(size, {"image": upstream.image, "prompt": upstream.prompt, "token": upstream.token})


if __name__ == "__main__":
    main()
