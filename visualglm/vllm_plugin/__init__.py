"""VisualGLM inside vLLM, exactly: its mask, its positions, its prompts, its pictures, its text.

vLLM finds `register` by the entry point group `vllm.general_plugins` and calls it in each process. vLLM's other
models go on as before: all stands under our own model type, `visualglm`, and of transformers' Auto classes only the
configuration's learns of it. Importing this package imports no vLLM.

vLLM's interfaces for models, tokenizers, renderers and pictures are open to others. What is not says so where it is
used: attention metadata (attention.py), the defaults of two flags (engine_config.py), the text of ids
(detokenizer.py), the table of model types (registration.py). So the versions are pinned (versions.py).
"""

from __future__ import annotations


def register() -> None:
    """What vLLM calls. In a version outside the window, opening a VisualGLM says so, and nothing else changes."""
    from .registration import register_all, register_refusal
    from .versions import version_problem

    problem = version_problem()
    if problem is None:
        register_all()
    else:
        register_refusal(problem)
