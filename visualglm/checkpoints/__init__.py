"""Open, check, convert and verify checkpoint files: Hugging Face layout, sat layout and native layout.

`load_model` is what `from_pretrained` calls; `open_checkpoint` gives names, shapes and configuration without reading
tensors, `read_config` the configuration alone; `convert` changes the layout, `save_sat` writes an open model. Only this
package calls `torch.load`; `hub/` downloads.
"""

from ..hub.local_folder import local_folder
from .checkpoint import LAYOUTS, Checkpoint, Layout
from .convert import convert
from .formats.upstream_config import sat as sat_arguments
from .load import load_model
from .low_rank_delta import LowRank
from .open import open_checkpoint, read_config
from .quantize import plan as quantization_plan
from .quantize import plan_from_flags, quantize_model
from .save_sat import save_sat
from .verify import Check, verify
from .vocabulary_file import find_vocabulary, resolve_vocabulary

__all__ = [
    "LAYOUTS",
    "Check",
    "Checkpoint",
    "Layout",
    "LowRank",
    "convert",
    "find_vocabulary",
    "load_model",
    "local_folder",
    "open_checkpoint",
    "plan_from_flags",
    "quantization_plan",
    "quantize_model",
    "read_config",
    "resolve_vocabulary",
    "sat_arguments",
    "save_sat",
    "verify",
]
