"""Files of PyTorch are mapped read-only by the thread that asks for it, and nothing else in the process changes."""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from visualglm.checkpoints.storage import read
from visualglm.checkpoints.storage.read import open_torch


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """As training frameworks write it: a tensor among options and a random state."""
    state = {"w": torch.arange(6.0), "args": argparse.Namespace(lr=1.0), "random": np.arange(3, dtype=np.uint32)}
    torch.save(state, tmp_path / "state.pt")
    return tmp_path / "state.pt"


def test_many_threads_open_files_at_once(file: Path) -> None:
    trusted = set(torch.serialization.get_safe_globals())
    with ThreadPoolExecutor(8) as threads:
        for content in threads.map(open_torch, [file] * 400):
            assert torch.equal(content["w"], torch.arange(6.0)) and content["args"].lr == 1.0
    assert "from_file" not in vars(torch.UntypedStorage)
    assert set(torch.serialization.get_safe_globals()) == trusted


def test_another_thread_maps_as_torch_does(file: Path) -> None:
    plain = file.with_name("plain.pt")
    torch.save(torch.arange(6.0), plain)
    with ThreadPoolExecutor(1) as threads, read._read_only_mapping():
        theirs = threads.submit(torch.load, plain, mmap=True, weights_only=True).result()
    theirs += 1  # writes to a copy of the page; our own mapping would end the process here
    assert torch.equal(torch.load(plain, weights_only=True), torch.arange(6.0))


def test_a_file_that_cannot_be_read_leaves_torch_as_it_was(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(read.CheckpointError):
        open_torch(file)
    assert "from_file" not in vars(torch.UntypedStorage) and not read.TORCH_LOAD.locked()
