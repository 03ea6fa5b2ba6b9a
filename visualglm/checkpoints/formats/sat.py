"""SwissArmyTransformer's layout: `model_config.json`, `latest`, `1/mp_rank_00_model_states.pt`.

In: the folder (or its step folder). Out: a `Checkpoint`: tensors renamed, the language model's query_key_value rows
regrouped. Two generations exist: files since July 2023, recognized by `pad_token_id` in `model_config.json`, hold all
queries, then keys, then values; older ones hold them head by head, as the Hugging Face files do (upstream's issues 102,
180, 200). A fine-tuned folder is read as its base plus a LoRA (`sat_lora.py`); a P-tuning prefix has the same name in
both layouts. It also writes the layout, always in the newer order.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, ConfigurationError
from ...files.untrusted_files import read_bytes
from ...hub.local_folder import SAT_WEIGHTS
from ...network.configuration import ChatGLMConfig, VisualGLMConfig
from ..checkpoint import (
    LM_HEAD,
    WORD_EMBEDDINGS,
    Checkpoint,
    infer_dtype,
    read_config_file,
    tie_head_if_equal,
)
from ..storage.lazy_tensor import LazyTensor, per_head_rows, thirds_rows
from ..storage.read import is_plain_name, open_torch, tensors_only
from ..storage.write import write_torch
from . import sat_lora, sat_nf4, upstream_config
from .detect import SAT_CONFIG
from .unused_tensors import POSITION_TABLE, SAT_BUFFER, read_carried, sat_buffers

LONGEST_NAME = 4096
"""Maximum bytes of `latest`, which holds the name of a folder."""
UNUSED = (POSITION_TABLE, SAT_BUFFER)
HEAD = "mixins.chatglm-final.lm_head.weight"
IMAGE_ENCODER = "mixins.eva.model."
FUSED_ROWS = re.compile(r"transformer\.layers\.\d+\.attention\.query_key_value\.(weight|bias)")


def our_name(name: str) -> str:
    """Map sat's name of a tensor to ours (upstream's Hugging Face name)."""
    if name == HEAD:
        return LM_HEAD
    return "image_encoder." + name.removeprefix(IMAGE_ENCODER) if name.startswith(IMAGE_ENCODER) else name


def sat_name(name: str) -> str:
    """Map our name of a tensor to sat's."""
    if name == LM_HEAD:
        return HEAD
    return IMAGE_ENCODER + name.removeprefix("image_encoder.") if name.startswith("image_encoder.") else name


def read(folder: Path) -> Checkpoint:
    """Read the folder as a `Checkpoint`.

    Raises:
        CheckpointError: broken or missing files, or a model-parallel checkpoint.
        ConfigurationError: the configuration is that of another model.
    """
    root, step = _places(folder)
    config, raw = read_config(folder)
    stored, added = sat_lora.split_lora(_read_tensors(step))
    tensors = {our_name(name): tensor for name, tensor in stored.items() if name not in UNUSED}
    added = {our_name(name): low for name, low in added.items()}
    if "pad_token_id" in raw:  # the newer generation
        tensors = {name: _per_head(name, tensor, config) for name, tensor in tensors.items()}
        added = {name: low.regrouped(partial(_per_head, name, config=config)) for name, low in added.items()}
    infer_dtype(config, tensors)
    unused = read_carried(root) | {name: stored[name] for name in UNUSED if name in stored}
    return Checkpoint(root, "sat", config, tie_head_if_equal(config, tensors), raw, unused, added)


def read_config(folder: Path) -> tuple[VisualGLMConfig, dict[str, Any]]:
    """Return the configuration and the unchanged content of its file; errors name the folder."""
    root, _ = _places(folder)
    return read_config_file(root / SAT_CONFIG, _configuration)


def _per_head(name: str, tensor: LazyTensor, config: VisualGLMConfig) -> LazyTensor:
    if not FUSED_ROWS.fullmatch(name) or tensor.shape[0] != 3 * config.hidden_size:
        return tensor  # the check of all shapes names misshapen tensors
    return per_head_rows(tensor, config.num_attention_heads)


def _places(folder: Path) -> tuple[Path, Path]:
    """Return the folder of `model_config.json` and the step folder with the weights."""
    step = folder if (folder / SAT_WEIGHTS).exists() else _step(folder)
    root = next((place for place in (folder, folder.parent) if (place / SAT_CONFIG).is_file()), None)
    if root is None:
        raise CheckpointError(f"{folder} lacks {SAT_CONFIG}: it belongs beside the step folder. Download it too.")
    if (step / "mp_rank_01_model_states.pt").exists():
        raise CheckpointError(
            f"{step} is split over several processes (mp_rank_01_model_states.pt). Merge it with sat's "
            "`split_model_parallel`/`--model_parallel_size 1` first; only single-process checkpoints can be opened."
        )
    return root, step


def _step(root: Path) -> Path:
    latest = root / "latest"
    name = read_bytes(latest, LONGEST_NAME).decode("utf-8", "replace").strip() if latest.is_file() else ""
    if name and not is_plain_name(name):
        raise CheckpointError(
            f"{latest} asks for {name!r}, which is not a folder beside it. Write the step's name there."
        )
    steps = [root / name] if name else sorted(child.parent for child in root.glob(f"*/{SAT_WEIGHTS}"))
    if not steps:
        raise CheckpointError(f"{root} has no {SAT_WEIGHTS} in any step folder. Download the weights too.")
    if not (steps[-1] / SAT_WEIGHTS).is_file():
        raise CheckpointError(f"{steps[-1] / SAT_WEIGHTS} is missing, which {latest} asks for. Download it.")
    return steps[-1]


def _configuration(raw: dict[str, Any]) -> VisualGLMConfig:
    missing = [key for key in ("eva_args", "qformer_args", "hidden_size", "num_layers") if key not in raw]
    if missing:
        raise ConfigurationError(
            f"{SAT_CONFIG} lacks {', '.join(missing)}: it is the configuration of another sat model."
        )
    try:
        return ChatGLMConfig.from_dict(upstream_config.from_sat(raw))
    except (TypeError, KeyError) as error:
        raise ConfigurationError(f"{SAT_CONFIG} makes no sense ({error}). Download it again.") from error


def _read_tensors(step: Path) -> dict[str, LazyTensor]:
    file = step / SAT_WEIGHTS
    content = open_torch(file)
    if not isinstance(content, dict) or "module" not in content:
        raise CheckpointError(f"{file} has no `module`, where sat stores its tensors, so it is not a sat checkpoint.")
    return sat_nf4.unpacked(tensors_only(sat_nf4.drop_quant_states(content["module"]), file), content["module"], file)


def write(folder: Path, source: Checkpoint, step_name: str = "1") -> None:
    """Write `model_config.json`, `latest` and one `.pt`, with query_key_value in the newer order.

    Raises:
        UsageError: the model has a convolutional stem.
    """
    upstream_config.check_no_stem(source.folder, source.config)
    step = folder / step_name
    step.mkdir()
    write_torch(step / SAT_WEIGHTS, stored_tensors(source), wrap="module")
    (folder / "latest").write_text(step_name, encoding="utf-8")
    raw = upstream_config.sat(source.config)
    (folder / SAT_CONFIG).write_text(json.dumps(raw, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def stored_tensors(source: Checkpoint) -> dict[str, LazyTensor]:
    """Return all tensors that this layout stores, under its names."""
    tensors = dict(source.tensors)
    tensors.setdefault(LM_HEAD, source.tensors[WORD_EMBEDDINGS])
    heads = source.config.num_attention_heads
    ours = {name: thirds_rows(t, heads) if FUSED_ROWS.fullmatch(name) else t for name, t in tensors.items()}
    return {**{sat_name(name): tensor for name, tensor in ours.items()}, **sat_buffers(source)}
