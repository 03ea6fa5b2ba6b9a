"""Cost of the worst request bodies for a real `visualglm serve` (`make bench-hostile`).

Each body of the allowed size is posted alone. Another process requests `/health` all the time: its longest wait is the
longest time for which the event loop was blocked. Memory is the peak beyond what the server had before. Stores
`benchmarks/results/hostile_bodies.json`.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
from record import RESULTS, origin, status_field, store

PORT = 8473
BASE = f"http://127.0.0.1:{PORT}"
CHAT = "/v1/chat/completions"
SIZE = 31_000_000
"""Bytes of a body; the server takes 32 MB."""


def upstream(image: bytes = b"", text: bytes = b"?", history: bytes = b"[]") -> tuple[str, bytes]:
    """Build a body of `POST /`."""
    return "/", b'{"text":"' + text + b'","image":"' + image + b'","history":' + history + b"}"


def chat(content: bytes) -> tuple[str, bytes]:
    """Build a body of OpenAI's API."""
    return CHAT, b'{"model":"visualglm-mini","messages":[{"role":"user","content":' + content + b"}]}"


def image(url: bytes) -> tuple[str, bytes]:
    """Build a message with one image."""
    return chat(b'[{"type":"image_url","image_url":{"url":"' + url + b'"}}]')


def fill(unit: bytes, size: int = SIZE) -> bytes:
    """Repeat a unit up to the size."""
    return unit * (size // len(unit))


def bodies() -> Iterator[tuple[str, tuple[str, bytes]]]:
    """Return each kind of body by its name; the first ones are legitimate images."""
    yield "image in base64", upstream(fill(b"A"))
    yield "image in base64, line breaks", upstream(fill(b"A" * 76 + b"\n"))
    yield "image in base64, escaped slashes", image(b"data:image/png;base64," + fill(b"A" * 62 + b"\\/"))
    yield "percent signs", upstream(fill(b"%"))
    yield "percent signs in a data URL", image(b"data:image/png;base64," + fill(b"%"))
    yield ";base64 repeated", upstream(b"data:" + fill(b";base64"))
    yield "escapes in a string", upstream(fill(b"\\u732b"))
    yield "text, English", chat(b'"' + fill(b"a") + b'"')
    yield "text, Chinese", upstream(text=fill("猫".encode()))
    yield "text of the allowed size, worst tokens", upstream(text=fill("\ufdfa".encode(), 990_000))
    yield "numbers in a list", upstream(history=b"[" + fill(b"1,") + b"1]")
    yield "lists in a list", upstream(history=b"[" + fill(b"[],") + b"1]")
    yield "keys", ("/", b"{" + b",".join(b'"%d":1' % number for number in range(2_500_000)) + b"}")
    yield "keys, the allowed number", (CHAT, b"{" + b",".join(b'"%d":1' % number for number in range(99_000)) + b"}")
    yield "parts", chat(b"[" + fill(b'{"type":"text","text":"a"},') + b"{}]")
    yield "parts, the allowed number", chat(b"[" + fill(b'{"type":"text","text":"a"},', 890_000) + b"{}]")
    yield "a long kind of part", chat(b'[{"type":"' + fill(b"a") + b'"}]')
    yield "depth", ("/", fill(b"["))


def watch(told: Connection) -> None:
    """Request /health until stopped; report the longest wait since the last report, in milliseconds."""
    longest = 0.0
    with httpx.Client(base_url=BASE, timeout=600) as client:
        while True:
            started = time.perf_counter()
            client.get("/health")
            longest = max(longest, 1000 * (time.perf_counter() - started))
            if told.poll():
                if not told.recv():
                    return
                told.send(longest)
                longest = 0.0


def measure(pid: int, told: Connection) -> dict[str, Any]:
    """Measure the figures of each body."""

    def longest_wait() -> float:
        told.send(True)
        return round(float(told.recv()), 1)

    def memory(name: str) -> int:
        return status_field(Path(f"/proc/{pid}/status"), name) // 10**6

    figures: dict[str, Any] = {}
    with httpx.Client(base_url=BASE, timeout=600, headers={"Content-Type": "application/json"}) as client:
        client.post("/", json={"text": "?", "max_length": 40})  # exclude what the first request allocates
        longest_wait()
        for name, (path, body) in bodies():
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # reset the peak to the current memory
            before, idle = memory("VmRSS"), longest_wait()
            started = time.perf_counter()
            status = client.post(path, content=body).status_code
            figures[name] = {
                "megabytes": round(len(body) / 1e6, 1),
                "status": status,
                "seconds": round(time.perf_counter() - started, 2),
                "longest_wait_for_health_ms": longest_wait(),
                "the_same_before_it_ms": idle,
                "peak_memory_beyond_before_mb": memory("VmHWM") - before,
            }
            time.sleep(0.5)
    return figures


def main() -> None:
    """Start the server and its watcher, post every body, stop both."""
    command = [sys.executable, "-m", "visualglm", "serve", "--no-web", "--port", str(PORT)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    told, other = multiprocessing.Pipe()
    watcher = multiprocessing.get_context("spawn").Process(target=watch, args=(other,), daemon=True)
    try:
        until_ready()
        watcher.start()
        figures = measure(server.pid, told)
        told.send(False)
        watcher.join()
    finally:
        server.terminate()
        server.wait()
    waits = [figure["longest_wait_for_health_ms"] for figure in figures.values()]
    peaks = [figure["peak_memory_beyond_before_mb"] for figure in figures.values()]
    worst = {"longest_wait_for_health_ms": max(waits), "peak_memory_beyond_before_mb": max(peaks)}
    store(RESULTS / "hostile_bodies.json", {**origin(__file__), "model": "visualglm-mini", **worst, "bodies": figures})


def until_ready() -> None:
    """Wait for the server."""
    for _ in range(600):
        try:
            if httpx.get(f"{BASE}/health").status_code == 200:
                return
        except httpx.ConnectError:
            time.sleep(0.2)
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    main()
