"""Our model against upstream's own code in bfloat16 (`make bench-upstream`).

Upstream's code is that of the `deep-training` package, on the versions that it needs; ours runs in bfloat16, 8 and 4
bits. Both have the 6B's shapes with random weights, the whole image encoder, and as many of the 28 blocks as fit into
memory twice. Stores `benchmarks/results/peers_upstream.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from paired import Asked, Ours, Peer, compared
from record import RESULTS, origin, store

from visualglm.network.configuration import VisualGLMConfig
from visualglm.quantization import Bits

SCRIPT = Path(__file__).with_name("upstream_side.py")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="a Python that has deep-training and sat")
    parser.add_argument("--blocks", type=int, default=8, help="number of the language model's 28 blocks")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "peers_upstream.json")
    options = parser.parse_args()
    peer = Peer(options.peers, SCRIPT, str(options.blocks))
    forms: dict[str, Bits | None] = {"bfloat16": None, "int8": 8, "int4": 4}
    found = {name: beside(peer, bits, options) for name, bits in forms.items()}
    head = {**origin(__file__), "prompt_tokens": options.prompt, "blocks": options.blocks}
    store(options.output, {**head, **found})


def beside(peer: Peer, bits: Bits | None, options: argparse.Namespace) -> dict[str, Any]:
    """Compare ours in one form."""
    ours = Ours(VisualGLMConfig(num_layers=options.blocks), bits)
    requests = (
        Asked("image", count=3),
        Asked(f"prompt {options.prompt}", count=3, name="prompt"),
        Asked("token", count=options.tokens),
    )
    return compared({"ours": ours, "upstream": peer}, requests)


if __name__ == "__main__":
    main()
