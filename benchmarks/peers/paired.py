"""benchmarks/peers/paired: our model and chatglm.cpp, full 6B shapes, random weights, in turn (`make bench-peers`).

One step of one, one step of the other, with the memory's bandwidth read in between, so that both see the same machine.
chatglm.cpp's threads wait by spinning: run it on a quiet machine, or its figures are unfair. Each side lives in a
process of its own, and only the one that is asked computes. Stores `benchmarks/results/peers.json`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # beside which the other benchmarks lie

from record import RESULTS, origin, store, timed

from visualglm.configuration import VisualGLMConfig
from visualglm.quantization import QuantizationConfig
from visualglm.speed.machine import BandwidthProbe
from visualglm.speed.measure import bytes_per_token, random_prompt
from visualglm.speed.random_model import random_model

SIDE = Path(__file__).with_name("chatglm_cpp_side.py")


class Peer:
    """The other side's process."""

    def __init__(self, python: Path, file: Path, prompt: int) -> None:
        command = [str(python), str(SIDE), "serve", str(file), str(prompt)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line()

    def seconds(self, request: str) -> float:
        """How long it took."""
        assert self.process.stdin is not None
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("chatglm.cpp's process ended; its own message stands above.")
        return line


class Ours:
    """Our side, in this process."""

    def __init__(self, bits: Any, prompt: int) -> None:
        config = VisualGLMConfig(vision_config={"num_layers": 1}, qformer_config={"num_layers": 1})
        plan = QuantizationConfig(bits, modules={"transformer.layers.*": bits, "lm_head": bits})  # as the peer does
        self.model, self.step = random_model(config, plan), None
        self.ids = random_prompt(config, prompt + config.image_length)[:, config.image_length :]

    @torch.inference_mode()
    def seconds(self, request: str) -> float:
        """How long it took."""
        if request == "prompt" or self.step is None:
            self.step, elapsed = timed(self.model, self.ids, logits_to_keep=1)
        else:
            ids = self.step.logits[:, -1:].float().argmax(-1)
            self.step, elapsed = timed(self.model, ids, past_key_values=self.step.past_key_values)
        return elapsed


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="a Python that has chatglm-cpp 0.4.2")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--output", type=Path, default=RESULTS / "peers.json")
    arguments = parser.parse_args()
    found = {f"int{bits}": compared(bits, arguments) for bits in (4, 8)}
    store(arguments.output, {**origin(__file__), "prompt_tokens": arguments.prompt, **found})


def compared(bits: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both sides at so many bits: medians, and the ratio of the two."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.bin"
        subprocess.run([str(arguments.peers), str(SIDE), "write", str(file), str(bits)], check=True)
        sides = {"ours": Ours(bits, arguments.prompt), "chatglm_cpp": Peer(arguments.peers, file, arguments.prompt)}
        probe, bandwidths = BandwidthProbe(), []
        for side in sides.values():
            side.seconds("prompt")  # touches every page
        prompts = {name: statistics.median(side.seconds("prompt") for _ in range(3)) for name, side in sides.items()}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(arguments.tokens):
            for name, side in sides.items():
                seconds[name].append(side.seconds("token"))
                bandwidths.append(probe.measure())
        size = {"ours": bytes_per_token(sides["ours"].model), "chatglm_cpp": file.stat().st_size}
    tokens, bandwidth = (
        {name: statistics.median(taken) for name, taken in seconds.items()},
        statistics.median(bandwidths),
    )
    return {
        "bandwidth_gb_per_second": round(bandwidth / 1e9, 2),
        "seconds_per_token": {name: round(taken, 4) for name, taken in tokens.items()},
        "of_bandwidth": {name: round(size[name] / taken / bandwidth, 3) for name, taken in tokens.items()},
        "prompt_seconds": {name: round(taken, 3) for name, taken in prompts.items()},
        "decode_ratio": round(tokens["chatglm_cpp"] / tokens["ours"], 3),
        "prompt_ratio": round(prompts["chatglm_cpp"] / prompts["ours"], 3),
    }


if __name__ == "__main__":
    main()
