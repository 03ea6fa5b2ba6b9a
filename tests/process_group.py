"""Run a function in a group of processes on one machine, as torchrun starts them, but forked after the imports."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Sequence

import torch


def run_together(work: Callable[[], object], preload: Sequence[str], count: int = 2) -> None:
    """Call `work`, which must be picklable, in `count` processes; every one must end well, and not return False.

    The first call in a test process imports `preload`; later ones fork from there.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", *preload])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [context.Process(target=_member, args=(number, count, port, work)) for number in range(count)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * count


def _member(number: int, count: int, port: int, work: Callable[[], object]) -> None:
    torch.set_num_threads(1)
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")
    os.environ |= {"MASTER_ADDR": "127.0.0.1", **dict(zip(names, map(str, (number, number, count, port)), strict=True))}
    assert work() is not False
