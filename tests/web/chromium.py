"""Fixtures: servers with the page, and pages of a real headless Chromium."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

import visualglm
from visualglm.serving.app import ServerSettings, create_app
from visualglm.serving.engine.job import Job

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SAMPLES = {file.stem: file for file in (visualglm.packed_model() / "samples").glob("*.png")}
PATIENCE = 120_000
"""Milliseconds: a busy machine is no failure."""
expect.set_options(timeout=PATIENCE)


class PageServer:
    """A server that can be stopped and started again at its address."""

    def __init__(self, model: visualglm.VisualGLM, settings: ServerSettings, port: int = 0) -> None:
        self.model, self.settings, self.port = model, settings, port
        self.start()

    def start(self) -> None:
        self.app: FastAPI = create_app(self.model, self.settings)
        config = uvicorn.Config(self.app, "127.0.0.1", self.port, log_level="warning", timeout_graceful_shutdown=5)
        self._server, bound = uvicorn.Server(config), config.bind_socket()
        self.port = bound.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.run, args=([bound],))
        self._thread.start()
        httpx.get(f"{self.url}/health", timeout=60)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture(scope="module")
def serve_page(opened: visualglm.VisualGLM) -> Iterator[Callable[..., PageServer]]:
    """Start servers that end with the module."""
    running: list[PageServer] = []

    def start(settings: ServerSettings | None = None, model: visualglm.VisualGLM | None = None) -> PageServer:
        running.append(PageServer(model or opened, settings or ServerSettings(miniature=True)))
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.fixture(scope="module")
def server(serve_page: Callable[..., PageServer]) -> PageServer:
    return serve_page()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("not run: no Chromium; apt-get install chromium")
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as started:
        opened_browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *camera])
        yield opened_browser
        opened_browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open pages; afterwards no page may have asked another server, thrown an error, or met its content policy."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def watch(page: Page, url: str) -> None:
        own = (url, "data:", "blob:")
        page.on("request", lambda asked: None if asked.url.startswith(own) else wrong.append(asked.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None)

    def open_one(url: str, locale: str = "en-US", width: int = 1280, beside: Page | None = None, **more: Any) -> Page:
        if beside is None:
            contexts.append(browser.new_context(locale=locale, viewport={"width": width, "height": 844}, **more))
        page = beside.context.new_page() if beside is not None else contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        watch(page, url)
        page.goto(url)
        expect(page.locator("#examples button").first).to_be_attached()
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def page(server: PageServer, open_page: Callable[..., Page]) -> Page:
    return open_page(server.url)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Answers that stop after their third token until the event is set."""
    go_on, accept = threading.Event(), Job.accept

    def wait_and_accept(job: Job, index: int) -> None:
        if len(job.ids) >= 3 and not job.ended:
            go_on.wait(20)
        accept(job, index)

    monkeypatch.setattr(Job, "accept", wait_and_accept)
    yield go_on
    go_on.set()


def ask(page: Page, text: str, *images: Path) -> None:
    """Send a question with images from files."""
    if images:
        page.locator("#files").set_input_files([str(image) for image in images])
        expect(page.locator("#attached li")).to_have_count(len(images))
    page.locator("#question").fill(text)
    page.locator("#question").press("Enter")


def answers(page: Page) -> Locator:
    """Return the answers that are whole."""
    return page.locator("#messages[aria-busy=false] .answer .said")


def expect_answer(page: Page, number: int, text: str) -> None:
    expect(answers(page).nth(number)).to_have_text(text)
