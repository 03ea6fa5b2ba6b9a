"""Compare our model with another program in turn, at full 6B shapes with random weights.

One step of one, one step of the other, and the memory bandwidth after each, so both see the same machine. Each side is
a separate process, and only one computes at a time.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))  # the folder of the other benchmarks

from record import timed

from visualglm.benchmarking.random_weights import blocks_and_head, random_model
from visualglm.benchmarking.throughput import bytes_per_token, random_image, random_prompt
from visualglm.hardware.machine_report import BandwidthProbe
from visualglm.network.configuration import VisualGLMConfig
from visualglm.quantization import Bits

ROW_PROMPT = 64
"""Tokens of each row's prompt."""


@dataclass(frozen=True)
class Asked:
    """A request that both sides are asked `count` times, after once to warm up; the figures have it under `name`."""

    request: str
    count: int
    name: str = ""

    @property
    def key(self) -> str:
        return self.name or self.request


class Side(Protocol):
    """A side that can be asked for an `image`, a `prompt N` from the start, one more `token`, or one in `rows N`."""

    bytes_per_token: int

    def seconds(self, request: str) -> float:
        """Return how long it took."""


class Peer:
    """Another program's process, which runs `side.py`."""

    def __init__(self, python: Path, script: Path, *arguments: str) -> None:
        command = [str(python), str(script), *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.bytes_per_token = int(self._line())

    def seconds(self, request: str) -> float:
        """Return how long it took, by the other process's clock."""
        assert self.process.stdin is not None
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        """End the process, so that the next one has its memory."""
        self.process.communicate()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the other program's process ended; its own message stands above.")
        return line


class Ours:
    """Our side, in this process; `bits` for the blocks and the head, None for bfloat16."""

    def __init__(self, config: VisualGLMConfig, bits: Bits | None) -> None:
        self.model = random_model(config, blocks_and_head(bits))
        self.bytes_per_token = bytes_per_token(self.model)
        self.image = random_image(config).to(torch.bfloat16)
        self.step: Any = None
        self.rows: dict[int, Any] = {}

    @torch.inference_mode()
    def seconds(self, request: str) -> float:
        """Return how long it took."""
        kind, *number = request.split()
        if kind == "image":
            return float(timed(self.model.encode_images, self.image)[1])
        if kind == "prompt":
            self.step, elapsed = timed(self.model, self.words(int(number[0])), logits_to_keep=1)
        elif kind == "token":
            self.step, elapsed = self.next_step(self.step)
        else:
            rows = int(number[0])
            if rows not in self.rows:
                self.rows[rows] = self.model(self.words(ROW_PROMPT).expand(rows, -1), logits_to_keep=1)
            self.rows[rows], elapsed = self.next_step(self.rows[rows])
        return float(elapsed)

    def words(self, count: int) -> Tensor:
        """Return a prompt [1, count] without an image."""
        length = self.model.config.image_length
        return random_prompt(self.model.config, count + length)[:, length:]

    def next_step(self, step: Any) -> tuple[Any, float]:
        """Compute one more token of each row, and the seconds that it took."""
        ids = step.logits[:, -1:].float().argmax(-1)
        step, seconds = timed(self.model, ids, past_key_values=step.past_key_values)
        return step, seconds


def compared(sides: dict[str, Side], requests: Sequence[Asked]) -> dict[str, Any]:
    """Ask both sides in turn for every request; return medians and the ratio of second to first."""
    probe, bandwidths = BandwidthProbe(), []
    seconds: dict[str, dict[str, float]] = {}
    for asked in requests:
        taken: dict[str, list[float]] = {name: [side.seconds(asked.request)] for name, side in sides.items()}
        for _ in range(asked.count):
            for name, side in sides.items():
                taken[name].append(side.seconds(asked.request))
                bandwidths.append(probe.measure())
        seconds[asked.key] = {name: statistics.median(times[1:]) for name, times in taken.items()}
    bandwidth, (ours, other) = statistics.median(bandwidths), sides
    share = {name: side.bytes_per_token / seconds["token"][name] / bandwidth for name, side in sides.items()}
    return {
        "bandwidth_gb_per_second": round(bandwidth / 1e9, 2),
        "of_bandwidth": {name: round(part, 3) for name, part in share.items()},
        "seconds": {r: {name: round(value, 4) for name, value in found.items()} for r, found in seconds.items()},
        "times_as_fast": {r: round(found[other] / found[ours], 3) for r, found in seconds.items()},
    }
