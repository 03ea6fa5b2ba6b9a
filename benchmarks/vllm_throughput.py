"""Our own server against vLLM's with the plugin, one after the other (`make bench-vllm`).

1, 8 and 32 clients ask about images with the packed model, one question after another, greedily, in float32. Stores
requests and tokens per second of both in `benchmarks/results/vllm_throughput.json`, and how many of their answers
differ. GPUs are not measured.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from record import RESULTS, origin, store
from serving import CHAT, make_requests, until_ready

ROOT = Path(__file__).resolve().parents[1]
PORT = 8473
ENGINES = {
    "transformers": [],
    "vllm": ["--engine", "vllm", "--dtype", "float32", "--vllm-args", "--max-num-seqs 32"],
}
"""Arguments of each engine's `visualglm serve`."""
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Environment: one thread for both; vLLM's KV cache may take a gigabyte."""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=64, help="for each number of clients")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer at most")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "vllm_throughput.json")
    parser.add_argument("--vllm-python", type=Path, default=ROOT / ".venv-vllm" / "bin" / "python")
    options = parser.parse_args()
    found = {
        name: measured(Path(sys.executable) if name == "transformers" else options.vllm_python, flags, options)
        for name, flags in ENGINES.items()
    }
    texts = [result.pop("texts") for result in found.values()]
    head = origin(__file__)
    figures = {
        **head,
        "versions": {**head["versions"], "vllm": vllm_version(options.vllm_python)},
        "model": "visualglm-mini",
        "dtype": "float32",
        "requests": options.requests,
        "max_tokens": options.tokens,
        "engines": found,
        "answers_that_differ": sum(ours != theirs for ours, theirs in zip(*texts, strict=True)),
        "answers": len(texts[0]),
    }
    store(options.output, figures)


def vllm_version(python: Path) -> str:
    """Return the version in the other environment."""
    code = "from visualglm.vllm_plugin.versions import installed_version as found; print(found())"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def measured(python: Path, flags: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Measure one engine at every number of clients, with one server."""
    environment = {**os.environ, **ENVIRONMENT}
    command = [python, "-m", "visualglm", "serve", "--port", str(PORT), "--no-web", *flags]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        return asyncio.run(ask_all(options))
    finally:
        server.terminate()
        server.wait()


async def ask_all(options: argparse.Namespace) -> dict[str, Any]:
    """Return requests and tokens per second by clients, and the texts of the last round."""
    limits, found = httpx.Limits(max_connections=None), {}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{PORT}", timeout=1800, limits=limits) as client:
        started = time.perf_counter()
        await until_ready(client)
        ready = time.perf_counter() - started
        requests = [
            {**request, "stream": False, "temperature": 0, "max_tokens": options.tokens}
            for request in make_requests(-(-options.requests // 5))
        ][: options.requests]
        await answer(client, requests[0])
        for clients in options.clients:
            found[str(clients)], texts = await round_of(client, requests, clients)
    return {"seconds_to_start": round(ready, 1), "clients": found, "texts": texts}


async def round_of(
    client: httpx.AsyncClient, requests: list[dict[str, Any]], clients: int
) -> tuple[dict[str, float], list[str]]:
    """Send all requests once, with that many clients at a time."""
    replies: list[Any] = [None] * len(requests)
    waiting = iter(range(len(requests)))

    async def one() -> None:
        for place in waiting:
            replies[place] = await answer(client, requests[place])

    started = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    seconds = time.perf_counter() - started
    tokens = sum(reply["usage"]["completion_tokens"] for reply in replies)
    figures = {"requests_per_second": len(requests) / seconds, "tokens_per_second": tokens / seconds}
    texts = [reply["choices"][0]["message"]["content"] for reply in replies]
    return {name: round(value, 2) for name, value in figures.items()}, texts


async def answer(client: httpx.AsyncClient, request: dict[str, Any]) -> dict[str, Any]:
    """Return one whole answer."""
    reply = await client.post(CHAT, json=request)
    reply.raise_for_status()
    found: dict[str, Any] = reply.json()
    return found


if __name__ == "__main__":
    main()
