"""The page in a real headless Chromium (`make test-web`): upload, streamed answer, second turn, clear, error.

Run where Playwright and Chromium are; elsewhere it says that it was not run. Screenshots go to `runs/web/`.
"""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="not run: no Playwright; `make test-web` installs it")

import httpx
import uvicorn
from playwright.sync_api import Page, expect, sync_playwright

import visualglm
from visualglm.serving.app import ServerSettings, create_app

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SAMPLES = sorted((visualglm.packed_model() / "samples").glob("*.png"))
SHOTS = Path(__file__).parents[2] / "runs" / "web"
PATIENCE = 180_000  # milliseconds; a busy machine is no failure
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def address(opened: visualglm.VisualGLM) -> Iterator[str]:
    config = uvicorn.Config(create_app(opened, ServerSettings()), "127.0.0.1", 0, log_level="warning")
    server, bound = uvicorn.Server(config), config.bind_socket()
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    httpx.get(f"{url}/health", timeout=60)
    yield url
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("not run: no Chromium; apt-get install chromium")
    with sync_playwright() as started:
        opened_browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened_browser
        opened_browser.close()


@pytest.fixture
def page(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page in the language and width of the test's parameter; nothing may be asked of another server."""
    locale, width = getattr(request, "param", ("en-US", 1280))
    context = browser.new_context(locale=locale, viewport={"width": width, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    foreign: list[str] = []
    page.on("request", lambda asked: foreign.append(asked.url) if not asked.url.startswith(local(address)) else None)
    page.goto(address)
    page.locator("textarea").first.wait_for()
    yield page
    assert foreign == []
    context.close()


def local(address: str) -> tuple[str, ...]:
    return (address, "data:", "blob:")


def ask(page: Page, text: str, image: Path | None = None) -> None:
    if image is not None:
        page.locator("input[type=file]").first.set_input_files(str(image))
        page.locator(".thumbnail-image").first.wait_for()
    page.locator("textarea").first.fill(text)
    page.locator("textarea").first.press("Enter")


def answers(page: Page) -> Any:
    return page.locator("[data-testid=bot]")


@pytest.mark.parametrize("page", [("en-US", 1280), ("zh-CN", 390)], indirect=True, ids=["desktop-en", "phone-zh"])
def test_a_dialogue(opened: visualglm.VisualGLM, page: Page, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.id
    chinese = name.endswith("zh")
    expect(page.get_by_text("图片对话" if chinese else "Talk with a picture")).to_be_visible()
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}-start.png")
    conversation = opened.conversation(SAMPLES[0])
    ask(page, "这张图片里有什么？", SAMPLES[0])
    expect(answers(page).nth(0)).to_contain_text(conversation.ask("这张图片里有什么？").text)
    ask(page, "How many objects are there?")
    expect(answers(page).nth(1)).to_contain_text(conversation.ask("How many objects are there?").text)
    page.screenshot(path=SHOTS / f"{name}-dialogue.png")
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, "nothing sticks out to the right"
    page.get_by_role("button", name=re.compile("clear|清空|清除", re.IGNORECASE)).first.click()
    expect(answers(page)).to_have_count(0)


def test_words_alone(opened: visualglm.VisualGLM, page: Page) -> None:
    ask(page, "你好")
    expect(answers(page).nth(0)).to_contain_text(opened.ask(None, "你好").text)


def test_an_error_is_shown_as_it_is(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(SAMPLES[0].read_bytes()[:300])
    ask(page, "这是什么？", broken)
    expect(page.get_by_text(re.compile("broken or cut short")).first).to_be_visible()
    page.get_by_text(re.compile("broken or cut short")).first.hover()  # waits until it stands still
    page.screenshot(path=SHOTS / "error.png")
    assert page.get_by_role("button", name=re.compile("share", re.IGNORECASE)).count() == 0
