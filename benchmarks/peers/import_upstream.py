"""Import upstream's code and its sat without half of their dependencies.

Requires the environment of `make bench-upstream`: sat 0.4.12, and deep-training 0.3.0, which contains upstream's code.
Modules that the computation does not need are replaced by empty ones: triton, torchvision, and deep-training's own
package.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import sys
import types
from pathlib import Path


def stand_in(name: str, **attributes: object) -> types.ModuleType:
    """Create an empty module in place of an unnecessary one."""
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__dict__.update(attributes)
    sys.modules[name] = module
    return module


def import_upstream(module: str) -> types.ModuleType:
    """Import `visual` (the ViT and the Q-Former) or `modeling_chatglm` (the whole model)."""
    import torch._dynamo  # noqa: F401  would look into the stand-ins
    import transformers.modeling_utils  # noqa: F401  so would this

    language = stand_in("triton.language", constexpr=object)
    stand_in("triton", jit=lambda f=None, **k: f or (lambda g: g), language=language, __version__="0")
    functional = stand_in("torchvision.transforms.functional", InterpolationMode=None)
    stand_in("torchvision", transforms=stand_in("torchvision.transforms", functional=functional))
    os.environ.setdefault("MASTER_PORT", "29617")
    from sat.model.official import chatglm_model  # noqa: F401
    from sat.transformer_defaults import ARGS_DEFAULT

    ARGS_DEFAULT.pop("parallel_output", None)  # otherwise passed twice
    path = next(Path(p, "deep_training") for p in sys.path if Path(p, "deep_training").is_dir())
    for name, folder in (("", ""), (".nlp", "nlp"), (".nlp.models", "nlp/models")):
        stand_in(f"deep_training{name}").__path__ = [str(path / folder)]
    return importlib.import_module(f"deep_training.nlp.models.visualglm.{module}")
