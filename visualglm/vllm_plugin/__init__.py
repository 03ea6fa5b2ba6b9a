"""VisualGLM as an out-of-tree vLLM plugin, numerically exact.

vLLM finds `register` through the entry point group `vllm.general_plugins` and calls it in each process. Everything is
registered under our own model type, `visualglm`, so vLLM's other models are unaffected. Of transformers' Auto classes
only `AutoConfig` is extended. Importing this package does not import vLLM.

Models, tokenizers, renderers and multimodal processors use vLLM's public interfaces. Six files depend on private parts
of vLLM and say so: attention.py (attention metadata), engine_config.py (defaults of two flags), detokenizer.py (ids to
text), finite_logits.py (the scheduler), lora.py (loading of adapters) and registration.py (the table of model types).
Therefore the versions are pinned (versions.py).
"""

from __future__ import annotations


def register() -> None:
    """Register the plugin; called by vLLM in each process.

    With an unsupported vLLM version only an error is registered, which opening a VisualGLM raises.
    """
    from .registration import register_all, register_refusal
    from .versions import version_problem

    problem = version_problem()
    if problem is None:
        register_all()
    else:
        register_refusal(problem)
