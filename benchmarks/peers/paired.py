"""Compare our model with another program in turn, at full 6B shapes with random weights.

One step of one, one step of the other, and the memory bandwidth after each, so both see the same machine. Each side is
a separate process, and only one computes at a time.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # the folder of the other benchmarks

from record import timed

from visualglm.benchmarking.random_weights import blocks_and_head, random_model
from visualglm.benchmarking.throughput import bytes_per_token, random_image, random_prompt
from visualglm.hardware.machine_report import BandwidthProbe
from visualglm.network.configuration import VisualGLMConfig


class Side(Protocol):
    """A side that can be asked for an `image`, a `prompt` from the start, or one more `token`."""

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

    def __init__(self, config: VisualGLMConfig, bits: Any, prompt: int) -> None:
        self.model, self.step = random_model(config, blocks_and_head(bits)), None
        self.bytes_per_token = bytes_per_token(self.model)
        self.ids = random_prompt(config, prompt + config.image_length)[:, config.image_length :]
        self.image = random_image(config).to(torch.bfloat16)

    @torch.inference_mode()
    def seconds(self, request: str) -> float:
        """Return how long it took."""
        if request == "image":
            return float(timed(self.model.encode_images, self.image)[1])
        if request == "prompt" or self.step is None:
            self.step, elapsed = timed(self.model, self.ids, logits_to_keep=1)
        else:
            ids = self.step.logits[:, -1:].float().argmax(-1)
            self.step, elapsed = timed(self.model, ids, past_key_values=self.step.past_key_values)
        return float(elapsed)


def compared(sides: dict[str, Side], requests: dict[str, int]) -> dict[str, Any]:
    """Ask both sides in turn for every request; return medians and the ratio of second to first."""
    probe, bandwidths = BandwidthProbe(), []
    seconds: dict[str, dict[str, float]] = {}
    for request, count in requests.items():
        taken: dict[str, list[float]] = {name: [side.seconds(request)] for name, side in sides.items()}  # warms up
        for _ in range(count):
            for name, side in sides.items():
                taken[name].append(side.seconds(request))
                bandwidths.append(probe.measure())
        seconds[request] = {name: statistics.median(times[1:]) for name, times in taken.items()}
    bandwidth, (ours, other) = statistics.median(bandwidths), sides
    share = {name: side.bytes_per_token / seconds["token"][name] / bandwidth for name, side in sides.items()}
    return {
        "bandwidth_gb_per_second": round(bandwidth / 1e9, 2),
        "of_bandwidth": {name: round(part, 3) for name, part in share.items()},
        "seconds": {r: {name: round(value, 4) for name, value in found.items()} for r, found in seconds.items()},
        "times_as_fast": {r: round(found[other] / found[ours], 3) for r, found in seconds.items()},
    }
