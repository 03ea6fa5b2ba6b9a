"""Load and faults against a real `visualglm serve` with the packed model (`make bench-serve`).

Load: `--clients` streaming clients for `--seconds`; every answer is compared with that of the same request alone.
Faults: clients that vanish, read slowly or stop half-way through a body, malformed requests, broken images; after each
kind the server must answer as before. Stores `benchmarks/results/serving.json`. Quality is not measured.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
from record import RESULTS, origin, status_field, store

import visualglm
from visualglm.evaluation.scenes import Split, render_scene, scene_of, seeds

QUESTIONS = (
    "这张图片里有什么？",
    "What is in the picture?",
    "How many objects are there?",
    "描述这张图片。",
    "What is this?",
)
SAMPLINGS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.9, "seed": 11},
    {"top_p": 0.8, "temperature": 1.2, "seed": 5},
)
CHAT = "/v1/chat/completions"


def main() -> None:
    """Start the server, load it, attack it, stop it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--fuzz", type=int, default=10_000)
    parser.add_argument("--max-queue", type=int, default=48)
    options = parser.parse_args()
    command = [
        sys.executable,
        "-m",
        "visualglm",
        "serve",
        "--no-web",
        "--port",
        "8472",
        "--max-queue",
        str(options.max_queue),
    ]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        figures = asyncio.run(measure(options, server.pid))
    finally:
        server.terminate()
        figures_exit = server.wait()
    figures |= {"exit_code_after_sigterm": figures_exit}
    store(RESULTS / "serving.json", figures)


async def measure(options: argparse.Namespace, pid: int) -> dict[str, Any]:
    """Measure all figures."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url="http://127.0.0.1:8472", timeout=600, limits=limits) as client:
        await until_ready(client)
        requests = make_requests(options.images)
        alone = [(await answer(client, request))[1] for request in requests]
        load = await under_load(client, requests, alone, options, pid)
        faults = await under_faults(client, requests[0], alone[0], options.fuzz, pid)
    return {
        **origin(__file__),
        "model": "visualglm-mini",
        "load": load,
        "faults": faults,
    }


async def until_ready(client: httpx.AsyncClient) -> None:
    """Wait until the model is loaded."""
    for _ in range(3600):
        try:
            if (await client.get("/health")).status_code == 200:
                return
        except httpx.ConnectError:
            pass
        await asyncio.sleep(0.5)
    raise SystemExit("the server did not start")


def make_requests(images: int) -> list[dict[str, Any]]:
    """Combine every image with every question, each with one of the samplings."""
    requests = []
    samplings = itertools.cycle(SAMPLINGS)
    for seed in itertools.islice(seeds(Split.TEST), images):
        url = f"data:image/png;base64,{base64.b64encode(png(seed)).decode()}"
        for question in QUESTIONS:
            content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
            messages = [{"role": "user", "content": content}]
            requests.append({"model": "visualglm-mini", "messages": messages, "stream": True, **next(samplings)})
    return requests


def png(seed: int) -> bytes:
    """Return a drawn scene as the bytes of a PNG."""
    import io

    file = io.BytesIO()
    render_scene(scene_of(seed)).save(file, "PNG")
    return file.getvalue()


async def answer(client: httpx.AsyncClient, request: dict[str, Any]) -> tuple[int, str, float, float]:
    """Return status, text, and seconds to the first piece of text and to the end."""
    started, first, text = time.perf_counter(), 0.0, ""
    async with client.stream("POST", CHAT, json=request) as reply:
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line[6:])
                piece = chunk["choices"][0]["delta"].get("content", "") if chunk.get("choices") else "<error>"
                first = first or (time.perf_counter() - started if piece else 0.0)
                text += piece
        return reply.status_code, text, first, time.perf_counter() - started


async def under_load(
    client: httpx.AsyncClient, requests: list[dict[str, Any]], alone: list[str], options: argparse.Namespace, pid: int
) -> dict[str, Any]:
    """Run clients that ask again and again until the time is up."""
    end = time.monotonic() + options.seconds
    statuses: Counter[int] = Counter()
    firsts: list[float] = []
    totals: list[float] = []
    memory: list[int] = []
    different: Counter[int] = Counter()

    async def one(number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < end:
            place = chance.randrange(len(requests))
            status, text, first, total = await answer(client, requests[place])
            statuses[status] += 1
            if status == 200:
                firsts.append(first)
                totals.append(total)
                different[place] += text != alone[place]
            else:
                await asyncio.sleep(chance.random())  # a polite client waits after a 503

    async def watch() -> None:
        while time.monotonic() < end:
            memory.append(resident(pid))
            await asyncio.sleep(options.seconds / 50)

    await asyncio.gather(watch(), *(one(number) for number in range(options.clients)))
    warm = memory[len(memory) // 5]
    return {
        "clients": options.clients,
        "seconds": options.seconds,
        "answers_by_status": {str(status): count for status, count in sorted(statuses.items())},
        "distinct_requests": len(requests),
        "answers_unlike_alone": sum(different.values()),
        "requests_with_such_answers": [place for place, count in different.items() if count],
        "first_token_seconds": percentiles(firsts),
        "total_seconds": percentiles(totals),
        "memory_mb_after_warm_up": warm,
        "memory_mb_at_the_end": memory[-1],
        "memory_growth_percent": round(100 * (memory[-1] / warm - 1), 2),
    }


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return p50 and p95."""
    cuts = statistics.quantiles(seconds, n=20)
    return {"p50": round(cuts[9], 3), "p95": round(cuts[18], 3)}


def resident(pid: int) -> int:
    """Return the resident MB of the server's process."""
    return status_field(Path(f"/proc/{pid}/status"), "VmRSS") // 10**6


async def under_faults(
    client: httpx.AsyncClient, request: dict[str, Any], alone: str, fuzz: int, pid: int
) -> dict[str, Any]:
    """Cause each kind of fault, and check that the next request is answered as before."""
    kinds: dict[str, Callable[[], Awaitable[Any]]] = {
        "32 clients vanish in the middle of a stream": lambda: together(32, lambda: vanish(client, request)),
        "16 clients read slowly": lambda: together(16, lambda: slow(request)),
        "16 bodies are half sent": lambda: together(16, half_a_body),
        "pictures that cannot be decoded": lambda: broken_images(client),
        f"{fuzz} malformed requests": lambda: malformed(client, fuzz),
    }
    before, files, report = resident(pid), open_files(pid), {}
    for name, harm in kinds.items():
        statuses = await harm()
        status, text, _, _ = await answer(client, request)
        report[name] = {"got": statuses, "next_request_answered_as_before": status == 200 and text == alone}
    report["memory_mb"] = {"before": before, "after": resident(pid)}
    report["open_files"] = {"before": files, "after": open_files(pid)}
    return report


def open_files(pid: int) -> int:
    """Return the number of files and sockets that the server has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def together(count: int, harm: Callable[[], Awaitable[str]]) -> dict[str, int]:
    """Cause the same fault many times at once."""
    return dict(Counter(await asyncio.gather(*(harm() for _ in range(count)))))


async def vanish(client: httpx.AsyncClient, request: dict[str, Any]) -> str:
    """Leave after the first event."""
    async with client.stream("POST", CHAT, json=request) as reply:
        async for _ in reply.aiter_lines():
            return f"{reply.status_code}, left"
    return "empty"


async def slow(request: dict[str, Any]) -> str:
    """Read 64 bytes at a time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", 8472, limit=64)
    body = json.dumps(request).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    received = b""
    while block := await reader.read(64):
        received += block
        await asyncio.sleep(0.005)
    writer.close()
    return received[9:12].decode() + (", whole" if b"[DONE]" in received else "")


async def half_a_body() -> str:
    """Send half a body and leave."""
    _, writer = await asyncio.open_connection("127.0.0.1", 8472)
    writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n".encode() + b'{"model": ')
    await writer.drain()
    writer.close()
    return "left"


async def broken_images(client: httpx.AsyncClient) -> dict[str, int]:
    """Cut and change samples of the packed model at random offsets."""
    chance, statuses = random.Random(1), Counter[str]()
    whole = next(iter(sorted((visualglm.packed_model() / "samples").glob("*.png")))).read_bytes()
    for _ in range(100):
        content = bytearray(whole[: chance.randrange(1, len(whole))])
        for _ in range(chance.randrange(20)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
        reply = await client.post(CHAT, json={"model": "visualglm-mini", "messages": messages, "max_tokens": 1})
        statuses[str(reply.status_code)] += 1
    return dict(statuses)


async def malformed(client: httpx.AsyncClient, count: int) -> dict[str, int]:
    """Change, cut or double bytes of valid requests, at three routes."""
    chance, statuses = random.Random(2), Counter[str]()
    chat = json.dumps({"model": "visualglm-mini", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1})
    old = json.dumps({"text": "hi", "history": [], "max_length": 40, "image": "aGVsbG8="})
    for _ in range(count):
        path, body = chance.choice(((CHAT, chat), ("/", old), ("/v1/nothing", chat)))
        content = bytearray(body.encode())
        for _ in range(chance.randrange(1, 8)):
            place = chance.randrange(len(content))
            content[place : place + chance.randrange(3)] = bytes(
                chance.randrange(256) for _ in range(chance.randrange(3))
            )
        reply = await client.post(path, content=bytes(content), headers={"Content-Type": "application/json"})
        statuses[str(reply.status_code)] += 1
    return dict(statuses)


if __name__ == "__main__":
    main()
