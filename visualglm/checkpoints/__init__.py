"""checkpoints: files <-> model. Hugging Face layout, sat layout and our own; open, check, convert, prove.

`load_model` is what `from_pretrained` calls; `open_checkpoint` gives names, shapes and configuration without the
numbers, `read_config` the configuration alone; `convert` changes the layout, `save_sat` writes an open model.
`torch.load` lives in this room only, and so does the hub download. Knows the model's class only where it is handed one
or proves a checkpoint.
"""

from .checkpoint import LAYOUTS, Checkpoint, Layout, find_vocabulary, given_vocabulary, open_checkpoint, read_config
from .convert import convert
from .hub import local_folder
from .load import load_model
from .low_rank import LowRank
from .quantized import asked_plan, quantize_model
from .quantized import plan as quantization_plan
from .save import save_sat
from .upstream_config import sat as sat_arguments
from .verify import Check, verify

__all__ = [
    "LAYOUTS",
    "Check",
    "Checkpoint",
    "Layout",
    "LowRank",
    "asked_plan",
    "convert",
    "find_vocabulary",
    "given_vocabulary",
    "load_model",
    "local_folder",
    "open_checkpoint",
    "quantization_plan",
    "quantize_model",
    "read_config",
    "sat_arguments",
    "save_sat",
    "verify",
]
