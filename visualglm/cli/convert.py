"""`visualglm convert`: change a checkpoint's format. `checkpoints/convert.py` does the work."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import UsageError
from . import options
from .grouped_help import model_option, output_option

BYTES_PER_UNIT = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}

Layout = Annotated[
    Literal["native", "hf", "sat"],
    output_option(
        "--to",
        metavar="native|hf|sat",
        help="Format to write: native (safetensors of this package), Hugging Face's, or sat's.",
    ),
]
Vocabulary = Annotated[
    Path | None,
    model_option("--tokenizer", metavar="PATH", help="Vocabulary file ice_text.model to include, or its folder."),
]
Fingerprint = Annotated[
    bool,
    output_option("--fingerprint/--no-fingerprint", help="Store checksums and logits for `visualglm doctor`."),
]
Overwrite = Annotated[bool, output_option("--overwrite", help="Replace a TARGET that holds a checkpoint.")]
WithoutStem = Annotated[
    bool,
    output_option(
        "--without-stem", help="Leave out a convolutional stem, which upstream's formats cannot store; answers change."
    ),
]
MaxShardSize = Annotated[
    str, output_option("--max-shard-size", metavar="SIZE", help="Maximum size of a weights file, e.g. 2GB.")
]


@dataclass(frozen=True)
class CheckpointFlags(options.OptionGroup):
    """Values of the options of the verbs that write a checkpoint."""

    tokenizer: Vocabulary = None
    fingerprint: Fingerprint = True
    overwrite: Overwrite = False
    max_shard_size: MaxShardSize = "3.5GB"

    def check(self) -> None:
        """Refuse an invalid size before torch is imported.

        Raises:
            UsageError: `--max-shard-size` is not a size.
        """
        size_in_bytes(self.max_shard_size)

    def write(self, source: str, target: Path, **changes: Any) -> None:
        """Convert `source` into the folder `target`, and print its path; `changes` are arguments of `convert`."""
        from ..checkpoints import convert as convert_checkpoint

        folder = convert_checkpoint(
            source,
            target,
            with_fingerprint=self.fingerprint,
            overwrite=self.overwrite,
            tokenizer=self.tokenizer,
            max_shard_size=size_in_bytes(self.max_shard_size),
            report=lambda step: typer.echo(step, err=True),
            **changes,
        )
        typer.echo(str(folder))


@options.with_flags
def convert(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Checkpoint folder of any format, or a hub id.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="New folder.")],
    to: Layout = "native",
    without_stem: WithoutStem = False,
    *,
    flags: CheckpointFlags,
) -> None:
    """Convert a checkpoint to another format, bit for bit. / 转换权重格式，逐位一致。

    Memory stays bounded: tensors are copied one by one.

    Example: visualglm convert visualglm-6b converted --to native
    """
    options.check_model(source)
    flags.write(source, target, to=to, without_stem=without_stem)


def size_in_bytes(text: str) -> int:
    """Parse `3.5GB`, `500MB` or `1000000` as bytes.

    Raises:
        UsageError: the text is not such a size, or the size is 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(KB|MB|GB|)", text.strip().upper())
    if match is None or float(match[1]) == 0:
        raise UsageError(f"--max-shard-size {text} is not a size. Write for example 2GB or 500MB.")
    return int(float(match[1]) * BYTES_PER_UNIT[match[2]])
