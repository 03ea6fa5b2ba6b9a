"""Compiled decoding steps over a static cache: one graph for all steps, and the same tokens as without it."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from transformers.generation.configuration_utils import CompileConfig

import visualglm
from visualglm.benchmarking.throughput import random_prompt
from visualglm.network.cuda_graph_thread import in_one_thread

pytestmark = pytest.mark.slow


@pytest.fixture(params=[None, 4], ids=["float32", "4 bits"])
def model(request: pytest.FixtureRequest) -> Any:
    torch.compiler.reset()
    return visualglm.load(device="cpu", quantize=request.param).model


def prompts(model: Any) -> dict[str, Any]:
    """Return two rows of different lengths, each with an image."""
    torch.manual_seed(0)
    long, short = random_prompt(model.config, 40), random_prompt(model.config, 36)
    pads = torch.full((1, 4), model.config.pad_token_id)
    images = torch.randn(2, model.config.image_length, model.config.hidden_size)
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[1, :4] = 0
    return {"inputs": torch.cat([long, torch.cat([pads, short], 1)]), "image_embeds": images, "attention_mask": mask}


def test_it_is_compiled_once_and_gives_the_same_tokens(model: Any) -> None:
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiling = CompileConfig(fullgraph=True, dynamic=False, backend=backend, mode=None)
    compiling._compile_all_devices = True  # transformers compiles for GPUs only, unless a test asks
    static = {"cache_implementation": "static", "compile_config": compiling}
    for tokens in (12, 30):
        how = {"do_sample": False, "max_new_tokens": tokens, "eos_token_id": None, **prompts(model)}
        assert torch.equal(model.generate(**how), model.generate(**how, **static))
    assert len(graphs) == 1


def test_one_thread_runs_every_generation_with_a_static_cache() -> None:
    """torch keeps CUDA graphs per thread, and generate is called from several."""
    opened, threads = visualglm.load(device="cpu"), set()
    opened.model.compiles_steps = True  # as `load(compile=True)` has it, which wants a GPU
    opened.model.lm_head.register_forward_hook(lambda *_: threads.add(threading.current_thread()))
    image = visualglm.packed_model() / "samples" / "moon.png"
    asked = [opened.conversation(image).ask("这是什么？", max_new_tokens=4).text for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        asked += pool.map(lambda _: opened.conversation(image).ask("这是什么？", max_new_tokens=4).text, range(3))
    asked += [answer.text for answer in opened.caption([image], "这是什么？", max_new_tokens=4)]
    assert len(threads) == 1 and next(iter(threads)).daemon and len(set(asked)) == 1
    assert asked[0] == visualglm.load(device="cpu").conversation(image).ask("这是什么？", max_new_tokens=4).text
    with pytest.raises(ValueError, match="bad"):
        opened.model.generate(torch.ones(1, 3, dtype=torch.long), bad=True)


@pytest.mark.parametrize("how", [{"use_cache": False}, {"prompt_lookup_num_tokens": 2}, {"num_beams": 2}])
def test_other_generation_methods_still_work(how: dict[str, Any]) -> None:
    model = visualglm.load(device="cpu").model
    arguments = {"do_sample": False, "max_new_tokens": 5, **prompts(model), **how}
    if "prompt_lookup_num_tokens" in how:
        arguments |= {name: value[:1] for name, value in arguments.items() if isinstance(value, torch.Tensor)}
    found = model.generate(**arguments)
    model.compiles_steps = True
    assert torch.equal(model.generate(**arguments), found)


def test_the_thread_keeps_the_callers_modes_and_a_fork_has_its_own() -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert in_one_thread(torch.is_inference_mode_enabled) and in_one_thread(torch.is_autocast_enabled, "cpu")
    assert not in_one_thread(torch.is_inference_mode_enabled)
    assert in_one_thread(in_one_thread, threading.get_ident) == in_one_thread(threading.get_ident)
    child = os.fork()
    if child == 0:
        os._exit(in_one_thread(lambda: 7))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_static_cache_supports_output_attentions() -> None:
    """The mask is built for sdpa outside of forward; the eager kernel also reads it."""
    model = visualglm.load(device="cpu").model
    how = {"do_sample": False, "max_new_tokens": 5, **prompts(model), "output_attentions": True}
    found = model.generate(**how, return_dict_in_generate=True, cache_implementation="static")
    assert torch.equal(found.sequences, model.generate(**how))
    for filled, step in enumerate(found.attentions[1:], 41):
        assert step[0][..., :filled].sum() > 0 and step[0][..., filled:].sum() == 0


def test_it_needs_a_gpu() -> None:
    with pytest.raises(visualglm.errors.UsageError, match="--compile needs a GPU"):
        visualglm.load(device="cpu", compile=True)
