"""Seconds until a browser shows the web page (`make bench-page`).

Each round opens the page in a new browser context without a cache, from a server of the packed model on this machine.
Stores the medians of the first paint and of the moment when the model is named, and the page's bytes, in
`benchmarks/results/web_page.json`.
"""

from __future__ import annotations

import shutil
import statistics
import threading

import uvicorn
from playwright.sync_api import Browser, sync_playwright
from record import RESULTS, origin, store

import visualglm
from visualglm.serving.app import ServerSettings, create_app
from visualglm.serving.web.static_page import page_files

ROUNDS = 15
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


def main() -> None:
    """Serve the page, open it in each round, and store the figures."""
    app = create_app(visualglm.load(device="cpu"), ServerSettings(miniature=True))
    config = uvicorn.Config(app, "127.0.0.1", 0, log_level="warning")
    server, bound = uvicorn.Server(config), config.bind_socket()
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        rounds = [measure(browser, f"http://127.0.0.1:{bound.getsockname()[1]}") for _ in range(ROUNDS + 1)][1:]
        browser.close()
    server.should_exit = True
    thread.join()
    figures = {
        **origin(__file__),
        "rounds": ROUNDS,
        "first_paint_seconds": round(statistics.median(paint for paint, _ in rounds) / 1000, 3),
        "ready_seconds": round(statistics.median(ready for _, ready in rounds) / 1000, 3),
        "files": len(page_files()),
        "bytes": sum(file.stat().st_size for file in page_files().values()),
    }
    store(RESULTS / "web_page.json", figures)


def measure(browser: Browser, url: str) -> tuple[float, float]:
    """Return the milliseconds to the first paint and to the model's name in the page."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(url)
    page.locator("#banner").wait_for(state="visible")
    ready = page.evaluate("performance.now()")
    paint = page.evaluate(PAINT)
    context.close()
    return paint, ready


if __name__ == "__main__":
    main()
