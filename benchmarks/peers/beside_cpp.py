"""Our model against llama.cpp and chatglm.cpp, in 4 and in 8 bits (`make bench-peers`).

Full 6B shapes with random weights. llama.cpp runs a llama whose tokens read as many weights (`llama_cpp_side.py`). Run
it on an idle machine, because the threads of both busy-wait. Stores `benchmarks/results/peers_NAME.json`.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path
from typing import Any, cast

from paired import Asked, Ours, Peer, compared
from record import RESULTS, origin, store

from visualglm.network.configuration import VisualGLMConfig
from visualglm.quantization import Bits

SHORT, LONG = 64, 1024
ALONE = (Asked(f"prompt {SHORT}", count=3, name="prompt"), Asked("token", count=24))
"""Requests for chatglm.cpp, which decodes one row at a time and takes minutes for a long prompt."""
REQUESTS = {
    "chatglm_cpp": ALONE,
    "llama_cpp": (
        *ALONE,
        Asked("rows 8", count=12),
        Asked("prompt 512", count=2),
        Asked(f"prompt {LONG}", count=2),
        Asked("token", count=16, name=f"token behind {LONG}"),
    ),
}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=tuple(REQUESTS))
    parser.add_argument("--peers", type=Path, required=True, help="a Python that has the other program's package")
    parser.add_argument("--quantize", type=int, nargs="+", choices=(4, 8), default=[4, 8])
    parser.add_argument("-o", "--output", type=Path, help="file for the figures instead of benchmarks/results")
    options = parser.parse_args()
    found = {f"int{bits}": beside(cast(Bits, bits), options.peer, options.peers) for bits in options.quantize}
    output = options.output or RESULTS / f"peers_{options.peer}.json"
    store(output, {**origin(__file__), "prompt_tokens": SHORT, **found})


def beside(bits: Bits, name: str, python: Path) -> dict[str, Any]:
    """Compare both at that many bits; the other program's file is written first."""
    config = VisualGLMConfig(vision_config={"num_layers": 1}, qformer_config={"num_layers": 1})
    script = Path(__file__).with_name(f"{name}_side.py")
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "model.bin")
        subprocess.run([str(python), str(script), "write", file, str(bits)], check=True)
        peer = Peer(python, script, "serve", file)
        found = compared({"ours": Ours(config, bits), name: peer}, REQUESTS[name])
        peer.close()
    return found


if __name__ == "__main__":
    main()
