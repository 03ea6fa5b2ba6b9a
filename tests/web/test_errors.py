"""Every kind of error is a message in the dialogue, and the next question is answered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

import visualglm
from visualglm.serving.engine.engine import QueueFullError

from .chromium import SAMPLES, PageServer, answers, ask, expect_answer

pytestmark = pytest.mark.slow

MOON = SAMPLES["moon"]
QUESTION = "What is in the picture?"
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)


def goes_on(page: Page, opened: visualglm.VisualGLM, place: int = 0) -> None:
    """Return the composer is usable, and a right question gets its right answer."""
    ask(page, QUESTION, MOON)
    expect_answer(page, place, opened.ask(MOON, QUESTION).text)
    expect(page.locator(".error")).to_have_count(0)


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("cut.png", MOON.read_bytes()[:40], "cannot be opened"),
        ("photo.heic", HEIC, "is a HEIC photo"),
        ("broken.jpg", b"\xff\xd8\xff" + bytes(100), "cannot be opened"),
        ("letter.pdf", b"%PDF-1.4", "is not an image"),
        ("empty.png", b"", "cannot be opened"),
    ],
    ids=["cut", "HEIC", "broken", "PDF", "empty"],
)
def test_a_file_that_the_browser_cannot_open(
    opened: visualglm.VisualGLM, page: Page, tmp_path: Path, name: str, content: bytes, hint: str
) -> None:
    (tmp_path / name).write_bytes(content)
    page.locator("#files").set_input_files(str(tmp_path / name))
    expect(page.get_by_role("alert")).to_contain_text(f"{name} {hint}")
    expect(page.locator("#attached li")).to_have_count(0)
    goes_on(page, opened)


def test_an_image_that_only_the_server_finds_broken(
    opened: visualglm.VisualGLM, server: PageServer, open_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = open_page(server.url, "zh-CN")
    (tmp_path / "cut.png").write_bytes(MOON.read_bytes()[:-3000])
    ask(page, "这是什么？", tmp_path / "cut.png")
    expect(page.locator(".error p")).to_have_text("服务器无法读取图片：文件已损坏、不完整，或格式未知。")
    expect(page.locator("#question")).to_have_value("这是什么？")
    expect(page.locator("#attached li")).to_have_count(0)
    goes_on(page, opened)


def test_a_question_that_is_too_long(opened: visualglm.VisualGLM, page: Page) -> None:
    page.locator("#question").fill("很长的问题。" * 3000)
    page.locator("#question").press("Enter")
    expect(page.locator(".error p")).to_contain_text("too long for the model")
    goes_on(page, opened)


def test_a_full_queue(
    opened: visualglm.VisualGLM, server: PageServer, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise QueueFullError("1 requests wait already. Try again in a moment.")

    with monkeypatch.context() as patch:
        patch.setattr(server.app.state.engine, "_refuse_if_full", refuse)
        ask(page, QUESTION, MOON)
        expect(page.locator(".error p")).to_contain_text("The server is busy")
        expect(page.locator("#question")).to_have_value(QUESTION)
        expect(page.locator("#attached li")).to_have_count(1)
    page.get_by_role("button", name="Try again").click()
    expect_answer(page, 0, opened.ask(MOON, QUESTION).text)
    expect(page.locator("#question")).to_have_value("")
    expect(page.locator(".error")).to_have_count(0)


def test_a_failure_in_the_server(
    opened: visualglm.VisualGLM, server: PageServer, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any, **named: Any) -> Any:
        raise RuntimeError("a mistake")

    with monkeypatch.context() as patch:
        patch.setattr(server.app.state.engine.memory, "encode", fail)
        ask(page, QUESTION, MOON)
        expect(page.locator(".error p")).to_contain_text("The server failed to answer")
    page.locator("#attached .quiet").click()
    goes_on(page, opened)


def test_a_lost_and_restarted_server(
    opened: visualglm.VisualGLM, serve_page: Callable[..., PageServer], open_page: Callable[..., Page]
) -> None:
    server = serve_page()
    page = open_page(server.url)
    expected = opened.ask(MOON, QUESTION).text
    ask(page, QUESTION, MOON)
    expect_answer(page, 0, expected)
    server.stop()
    ask(page, "你好")
    expect(page.locator(".error p")).to_contain_text("The server cannot be reached")
    expect(page.locator("#question")).to_have_value("你好")
    server.start()
    page.locator("#send").click()
    expect(page.locator(".error")).to_have_count(0)
    expect(answers(page)).to_have_count(2)
    expect_answer(page, 0, expected)
    page.reload()
    expect_answer(page, 0, expected)


def test_a_connection_that_is_cut_while_the_answer_comes(page: Page) -> None:
    piece = 'data: {"choices": [{"index": 0, "delta": {"content": "half"}, "finish_reason": null}]}\n\n'
    page.route("**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=piece))
    ask(page, QUESTION)
    expect(page.locator(".error p")).to_contain_text("connection was lost before the answer ended")
    expect_answer(page, 0, "half")
    page.unroute("**/v1/chat/completions")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".error")).to_have_count(0)
    expect(answers(page).nth(0)).not_to_have_text("half")


def test_enter_while_an_answer_is_written_keeps_the_text(page: Page, slow: threading.Event) -> None:
    ask(page, QUESTION, MOON)
    expect(page.locator(".said.writing")).not_to_be_empty()
    page.locator("#question").fill("next")
    page.locator("#question").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("An answer is being written")
    expect(page.locator("#question")).to_have_value("next")
    slow.set()
    expect(answers(page)).to_have_count(1)
