"""Invariant: two processes that share the heads give the tokens that one gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import REFERENCE

pytestmark = pytest.mark.slow

PROGRAM = """
import json, os, sys
import numpy as np, torch, torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from tests.conftest import Reference, open_reference
torch.set_num_threads(1)
dist.init_process_group("gloo")
model = open_reference("hf", tp_plan="auto", tie_word_embeddings=False)
weight = model.transformer.layers[0].attention.query_key_value.weight
local = weight.to_local() if hasattr(weight, "to_local") else weight
inputs = Reference().inputs("img_multi")
ids = model.generate(**inputs, do_sample=False, max_new_tokens=8, eos_token_id=None)[0, -8:].tolist()
if dist.get_rank() == 0:
    print("RESULT", json.dumps({"rows": local.shape[0], "ids": ids}))
dist.destroy_process_group()
"""


def test_two_processes_give_the_same_tokens(tmp_path: Path, reference) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [*launcher, str(script), str(REFERENCE.parents[1])], capture_output=True, text=True, timeout=240, check=False
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    assert line is not None, done.stderr[-3000:]
    import json

    result = json.loads(line.removeprefix("RESULT"))
    assert result["rows"] == 96, "each process must hold half of the 192 query_key_value rows"
    assert result["ids"] == reference.tensor("img_multi", "greedy_ids")[:8].tolist()
