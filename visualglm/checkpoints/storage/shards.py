"""Read all tensors of a folder's weight files, one or many, safetensors or pickled.

In: a folder as transformers writes it (`model.safetensors`, `pytorch_model-00001-of-00005.bin` with its index, ...).
Out: names -> lazy tensors, and the names and index of shards to write.
"""

from __future__ import annotations

import glob
import json
import re
from pathlib import Path

from ...errors import CheckpointError
from ...files.json_object import read_object
from .lazy_tensor import LazyTensor
from .read import is_plain_name, open_safetensors, open_torch, tensors_only
from .write import Shard

CONFIG = "config.json"
MOST_SHARDS = 10_000
SHOWN = 8
STEMS = {"safetensors": "model", "bin": "pytorch_model"}
VARIANT = re.compile(r"(model|pytorch_model)\.(?P<variant>[\w-]+?)(-\d+-of-\d+)?\.(safetensors|bin)")


def read_weights(folder: Path, variant: str | None = None) -> dict[str, LazyTensor]:
    """Read all tensors of a folder, sharded or not, safetensors or pickled; safetensors are preferred.

    Args:
        variant: transformers' (`model.fp16.safetensors`); by default the only one of a folder without plain weights.

    Raises:
        CheckpointError: no weights, a shard missing, one of them broken, or several variants to choose from.
    """
    variant = variant or only_variant(folder)
    for suffix in STEMS:
        files = _files(folder, suffix, variant)
        if files:
            return {name: tensor for file in files for name, tensor in _open(file).items()}
    if variant is not None:
        raise CheckpointError(
            f"{folder} has no weights of the variant {variant!r}. Give one that it has, or leave it out."
        )
    raise CheckpointError(
        f"{folder} has a {CONFIG} but no weights (model*.safetensors or pytorch_model*.bin). Download them too."
    )


def _open(file: Path) -> dict[str, LazyTensor]:
    return open_safetensors(file) if file.suffix == ".safetensors" else tensors_only(open_torch(file), file)


def has_safetensors(folder: Path, variant: str | None = None) -> bool:
    """Return whether `read_weights` finds safetensors."""
    return bool(_files(folder, "safetensors", variant or only_variant(folder)))


def only_variant(folder: Path) -> str | None:
    """Return the variant of the weights of a folder that has no plain weights; None if it has some, or none at all.

    Raises:
        CheckpointError: it has several variants.
    """
    names = [path.name for path in folder.iterdir()]
    if any(re.fullmatch(rf"({'|'.join(STEMS.values())})(-\d+-of-\d+)?\.({'|'.join(STEMS)})", name) for name in names):
        return None
    variants = sorted({match["variant"] for name in names if (match := VARIANT.fullmatch(name))})
    if len(variants) > 1:
        raise CheckpointError(
            f"{folder} has weights of the variants {', '.join(variants[:SHOWN])}. Choose one: variant={variants[0]!r}."
        )
    return variants[0] if variants else None


def _files(folder: Path, suffix: str, variant: str | None) -> list[Path]:
    ending = "json" if variant is None else f"{variant}.json"
    single = folder / f"{_stem(suffix, variant)}.{suffix}"
    index = folder / f"{STEMS[suffix]}.{suffix}.index.{ending}"
    if single.is_file():
        return [single]
    if index.is_file():
        names = _indexed(index)
        needed_by = index.name
    else:
        names = _numbered(folder, suffix, variant)
        needed_by = "the other shards' names"
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing[:SHOWN])}{more}, which {needed_by} ask for. Download what is missing."
        )
    return [folder / name for name in names]


def _indexed(index: Path) -> list[str]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index} has no weight_map. Download it again.")
    names = sorted(set(weight_map.values()))
    elsewhere = next((name for name in names if not is_plain_name(name)), None)
    if elsewhere is not None:
        raise CheckpointError(
            f"{index} asks for {elsewhere!r}, but weights must be beside their index. Download it again "
            "from a source that you trust."
        )
    return names


def _stem(suffix: str, variant: str | None) -> str:
    return STEMS[suffix] if variant is None else f"{STEMS[suffix]}.{variant}"


def _numbered(folder: Path, suffix: str, variant: str | None) -> list[str]:
    """Return all shard names that the present ones imply (`...-of-00005`), so no index is needed."""
    stem = _stem(suffix, variant)
    for file in folder.glob(f"{glob.escape(stem)}-*-of-*.{suffix}"):
        match = re.fullmatch(r"-\d+-of-(\d+)", file.stem.removeprefix(stem))
        if match and int(match[1]) > MOST_SHARDS:
            raise CheckpointError(f"{file} says that it is one of {match[1]} shards. Rename it, or download it again.")
        if match:
            return shard_names(suffix, int(match[1]), variant)
    return []


def shard_names(suffix: str, count: int, variant: str | None = None) -> list[str]:
    """Return `pytorch_model-00001-of-00005.bin`, ..."""
    return [f"{_stem(suffix, variant)}-{index + 1:05d}-of-{count:05d}.{suffix}" for index in range(count)]


def write_index(folder: Path, suffix: str, shards: list[Shard], names: list[str]) -> None:
    """Write the index of a sharded checkpoint, tensor name -> file."""
    weight_map = {tensor: name for shard, name in zip(shards, names, strict=True) for tensor in shard}
    total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    path = folder / f"{STEMS[suffix]}.{suffix}.index.json"
    path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
