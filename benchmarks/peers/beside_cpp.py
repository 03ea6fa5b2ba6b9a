"""Our model against chatglm.cpp, in 4 and in 8 bits (`make bench-peers`).

Full 6B shapes with random weights. Run it on an idle machine, because chatglm.cpp's threads busy-wait. Stores
`benchmarks/results/peers_chatglm_cpp.json`.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from paired import Ours, Peer, compared
from record import RESULTS, origin, store

from visualglm.network.configuration import VisualGLMConfig

SCRIPT = Path(__file__).with_name("chatglm_cpp_side.py")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="a Python that has chatglm-cpp 0.4.2")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "peers_chatglm_cpp.json")
    options = parser.parse_args()
    found = {f"int{bits}": beside_chatglm_cpp(bits, options) for bits in (4, 8)}
    store(options.output, {**origin(__file__), "prompt_tokens": options.prompt, **found})


def beside_chatglm_cpp(bits: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Compare both at that many bits; chatglm.cpp's file is written first."""
    config = VisualGLMConfig(vision_config={"num_layers": 1}, qformer_config={"num_layers": 1})
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "model.bin")
        subprocess.run([str(options.peers), str(SCRIPT), "write", file, str(bits)], check=True)
        peer = Peer(options.peers, SCRIPT, "serve", file, str(options.prompt))
        sides = {"ours": Ours(config, bits, options.prompt), "chatglm_cpp": peer}
        found = compared(sides, {"prompt": 3, "token": options.tokens})
        peer.close()
    return found


if __name__ == "__main__":
    main()
