"""Makes `sat-lora/`, `sat-qlora/`, `sat-ptuning/` with the real sat library; checks that it opens what we wrote.

    python tests/fine_tuned/make.py make          # writes the folders and what sat computes with them
    python tests/fine_tuned/make.py check FOLDER  # loads a sat folder; prints missing and unexpected keys

Runs in an environment of its own (README.md of this folder names the versions), where it stands in for the parts of
upstream's repository that are in no package: the classes `VisualGLMModel` and `FineTuneVisualGLMModel`.
"""

import argparse
import contextlib
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "peers"))  # where upstream's code is imported too

from import_upstream import import_upstream

HERE = Path(__file__).parent
SEED = 11
RANK, LAYERS, PREFIX = 3, [0, 2], 5
KEPT = 8  # every eighth logit is stored
MODEL = {
    "num_layers": 3,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "vocab_size": 410,
    "layernorm_order": "post",
    "model_parallel_size": 1,
    "max_sequence_length": 64,
    "image_length": 4,
    "bos_token_id": 404,
    "mask_token_id": 400,
    "gmask_token_id": 401,
    "pad_token_id": 3,
}
EVA = {
    "num_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "vocab_size": 1,
    "layernorm_order": "pre",
    "model_parallel_size": 1,
    "max_sequence_length": 5,
    "inner_hidden_size": 24,
    "use_final_layernorm": False,
    "layernorm_epsilon": 1e-06,
    "image_size": [28, 28],
    "pre_len": 1,
    "post_len": 0,
    "in_channels": 3,
    "num_classes": 0,
    "patch_size": 14,
}
QFORMER = {
    "num_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "vocab_size": 4,
    "layernorm_order": "post",
    "model_parallel_size": 1,
    "max_sequence_length": 0,
    "is_decoder": [True, False],
    "cross_attn_hidden_size": 16,
    "layernorm_epsilon": 1e-12,
}


def build(visual: types.ModuleType, **fine_tuning: object) -> torch.nn.Module:
    """sat's model with upstream's two mixins, and those of its fine-tuning."""
    from sat.model.base_model import BaseMixin
    from sat.model.finetune import PTuningV2Mixin
    from sat.model.finetune.lora2 import LoraMixin
    from sat.model.official import ChatGLMModel

    def read_queries(self, encoder_outputs):
        count = self.transformer.word_embeddings.weight.shape[0]  # 32 is written there
        ids = torch.arange(count).expand(len(encoder_outputs), -1)
        one = torch.ones(1, 1)
        return super(visual.QFormer, self).forward(
            input_ids=ids, position_ids=None, attention_mask=one, encoder_outputs=encoder_outputs,
            cross_attention_mask=one,
        )  # fmt: skip

    visual.QFormer.forward = read_queries

    class ImageMixin(BaseMixin):
        def __init__(self, args):
            super().__init__()
            self.image_length = args.image_length
            self.model = visual.BLIP2(dict(args.eva_args), dict(args.qformer_args))
            self.model.glm_proj = torch.nn.Linear(args.qformer_args["hidden_size"], args.hidden_size)

        def word_embedding_forward(self, input_ids, output_cross_layer, image=None, pre_image=0, **kwargs):
            words = self.transformer.word_embeddings(input_ids)
            if image is None:
                return words
            end = pre_image + self.image_length
            return torch.cat([words[:, :pre_image], self.model(image), words[:, end:]], dim=1)

    class VisualGLMModel(ChatGLMModel):
        def __init__(self, args, transformer=None, **kwargs):
            super().__init__(args, transformer=transformer, **kwargs)
            self.add_mixin("eva", ImageMixin(args))

        @classmethod
        def add_model_specific_args(cls, parser):
            for name in ("image_length", "eva_args", "qformer_args"):
                parser.add_argument(f"--{name}")
            return super().add_model_specific_args(parser)

    class FineTuneVisualGLMModel(VisualGLMModel):
        def __init__(self, args, transformer=None, **kwargs):
            super().__init__(args, transformer=transformer, **kwargs)
            size = args.hidden_size // args.num_attention_heads
            if args.use_ptuning:
                prefix = PTuningV2Mixin(args.num_layers, size, args.num_attention_heads, args.pre_seq_len)
                self.add_mixin("ptuning", prefix)
            if args.use_lora:
                lora = LoraMixin(args.num_layers, args.lora_rank, layer_range=args.layer_range)
                self.add_mixin("lora", lora, reinit=True)

        @classmethod
        def add_model_specific_args(cls, parser):
            for name in ("pre_seq_len", "lora_rank", "use_ptuning", "use_lora", "use_qlora", "layer_range"):
                parser.add_argument(f"--{name}")
            return super().add_model_specific_args(parser)

    tuned = {"use_ptuning": False, "use_lora": False, "use_qlora": False, "lora_rank": RANK, "layer_range": LAYERS}
    chosen = {**MODEL, **tuned, "pre_seq_len": PREFIX, **fine_tuning}
    kind = FineTuneVisualGLMModel if fine_tuning.get("tuned", True) else VisualGLMModel
    args = kind.get_args(**{k: v for k, v in chosen.items() if k != "tuned"})
    args.eva_args, args.qformer_args = fine_tuning.get("eva_args", EVA), fine_tuning.get("qformer_args", QFORMER)
    model = kind(args)
    model.args = args
    return model.eval().float()


def random_weights(model: torch.nn.Module) -> None:
    """Numbers that make every part count, exact in float16."""
    generator = torch.Generator().manual_seed(SEED)
    for name, parameter in model.named_parameters():
        numbers = torch.randn(parameter.shape, generator=generator)
        if "layernorm" in name or "ln_vision" in name:
            numbers = numbers * 0.2 + (1.0 if name.endswith("weight") else 0.0)
        elif parameter.dim() > 1 and "embeddings" not in name and "prefix" not in name:
            numbers = numbers * 1.5 / parameter[0].numel() ** 0.5
        parameter.data = numbers.half().float()


@contextlib.contextmanager
def half(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """In float16, as upstream trains and merges; afterwards float32 again, with sat's own rotary frequencies."""
    exact = model.get_mixin("chatglm-attn").rotary_emb.inv_freq.clone()
    yield model.half()
    model.float().get_mixin("chatglm-attn").rotary_emb.inv_freq.copy_(exact)


def save(model: torch.nn.Module, folder: Path) -> None:
    """With sat's own `save_checkpoint`."""
    from sat.training.model_io import save_checkpoint

    args = model.args
    args.save, args.mode, args.tokenizer_type = str(folder), "inference", "THUDM/chatglm-6b"
    with half(model) as stored:
        save_checkpoint(1, stored, None, None, args)


def quantized(model: torch.nn.Module) -> dict[str, object]:
    """bitsandbytes' bytes and states of the language model's linear weights, which become what they stand for.

    The states are the plain lists of bitsandbytes 0.40, as `HackLinearNF4._save_to_state_dict` stores them.
    """
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed: dict[str, object] = {}
    for name, parameter in model.transformer.layers.named_parameters():
        if parameter.dim() == 2 and "matrix" not in name:
            blocks = parameter.data.half().view(-1, 64)  # bitsandbytes 0.50's CPU kernel errs on rows below a block
            data, state = quantize_4bit(blocks, compress_statistics=True, quant_type="nf4")
            numbers = dequantize_4bit(data, state).view_as(parameter)
            state.shape, parameter.data = parameter.shape, numbers.float()
            outer = state.state2
            nested = [state.offset, [outer.absmax, outer.code, outer.blocksize, False, outer.dtype, None, None]]
            linear = f"transformer.layers.{name.removesuffix('.weight')}"
            packed[f"{linear}.weight"] = data
            packed[f"{linear}.quant_state"] = [
                state.absmax, state.shape, state.dtype, state.blocksize, nested, "nf4", state.code
            ]  # fmt: skip
    return packed


def store_packed(folder: Path, packed: dict[str, object]) -> None:
    """sat 0.4.12 cannot build its own QLoRA layers (`dtype` has no value there), so their tensors are put in here."""
    file, config = folder / "1" / "mp_rank_00_model_states.pt", folder / "model_config.json"
    torch.save({"module": {**torch.load(file)["module"], **packed}}, file)
    raw = json.loads(config.read_text(encoding="utf-8")) | {"use_lora": False, "use_qlora": True}
    config.write_text(json.dumps(raw, indent=4), encoding="utf-8")


@torch.no_grad()
def make() -> None:
    visual = import_upstream("visual")
    generator = torch.Generator().manual_seed(SEED)
    words = torch.randint(6, 390, (9,), generator=generator).tolist()
    ids = torch.tensor([[*words[:2], *[3] * MODEL["image_length"], *words[2:], 401, 404, 33, 44]])
    image = torch.randn(1, 3, 28, 28, generator=generator).half().float()
    kinds = {"sat-lora": {"use_lora": True}, "sat-ptuning": {"use_ptuning": True}}
    for name, kind in {**kinds, "sat-qlora": {"use_lora": True}}.items():
        model = build(visual, **kind)
        random_weights(model)
        packed = quantized(model) if name == "sat-qlora" else {}
        save(model, HERE / name)
        if packed:
            store_packed(HERE / name, packed)
        found = {"input_ids": ids, "pixel_values": image, "logits": model(input_ids=ids, image=image, pre_image=2)[0]}
        if kind.get("use_lora"):
            with half(model) as stored:
                stored.get_mixin("lora").merge_lora()
            found["merged_logits"] = model(input_ids=ids, image=image, pre_image=2)[0]
        found |= {key: value[..., ::KEPT] for key, value in found.items() if "logits" in key}
        np.savez_compressed(HERE / name / "expected.npz", **{key: value.numpy() for key, value in found.items()})
        print(name, {key: list(value.shape) for key, value in found.items()})


@torch.no_grad()
def check(folder: Path) -> None:
    raw = json.loads((folder / "model_config.json").read_text(encoding="utf-8"))
    model = build(import_upstream("visual"), **raw, tuned=raw["model_class"] != "VisualGLMModel")
    stored = torch.load(folder / "1" / "mp_rank_00_model_states.pt", map_location="cpu")["module"]
    missing, unexpected = model.load_state_dict(stored, strict=False)
    print(json.dumps({"tensors": len(stored), "missing": missing, "unexpected": unexpected}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["make", "check"])
    parser.add_argument("folder", nargs="?", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    make() if chosen.action == "make" else check(chosen.folder)
