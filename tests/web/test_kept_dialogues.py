"""Dialogues are kept in the browser: over a reload, in two tabs, until they are deleted; nothing on the server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

import visualglm

from .chromium import SAMPLES, PageServer, answers, ask, expect_answer

pytestmark = pytest.mark.slow

MOON = SAMPLES["moon"]
QUESTION = "What is in the picture?"


def test_a_reload_keeps_the_dialogue_and_its_images(opened: visualglm.VisualGLM, page: Page) -> None:
    conversation = opened.conversation(MOON)
    ask(page, QUESTION, MOON)
    expect_answer(page, 0, conversation.ask(QUESTION).text)
    page.reload()
    expect_answer(page, 0, conversation.answer.text if conversation.answer else "")
    expect(page.locator("#images img")).to_have_count(1)
    ask(page, "How many objects are there?")
    expect_answer(page, 1, conversation.ask("How many objects are there?").text)


def test_a_reload_in_an_answer_keeps_what_was_said(page: Page, slow: threading.Event) -> None:
    ask(page, QUESTION, MOON)
    expect(page.locator(".said.writing")).not_to_be_empty()
    page.wait_for_timeout(300)
    page.reload()
    slow.set()
    expect(page.locator(".question p")).to_have_text(QUESTION)
    expect(page.locator(".note")).to_have_text("Stopped.")
    page.get_by_role("button", name="Another answer").click()
    expect(answers(page)).to_have_count(1)


def test_two_tabs_lose_nothing_of_each_other(
    opened: visualglm.VisualGLM, server: PageServer, page: Page, open_page: Callable[..., Page]
) -> None:
    ask(page, "你好")
    expect(answers(page)).to_have_count(1)
    other = open_page(server.url, beside=page)
    expect(other.locator("article")).to_have_count(0)
    other.locator("#dialogues .title").click()
    expect(answers(other)).to_have_count(1)
    ask(other, QUESTION)
    expect(answers(other)).to_have_count(2)
    expect(answers(page)).to_have_count(2)
    ask(page, "这是什么？")
    expect(answers(page)).to_have_count(3)
    expect(answers(other)).to_have_count(3)
    other.locator("#new").click()
    ask(other, QUESTION, MOON)
    expect(answers(other)).to_have_count(1)
    expect(page.locator("#dialogues li")).to_have_count(2)
    expect(answers(page)).to_have_count(3)
    page.reload()
    expect(page.locator(".question p")).to_have_text(["你好", QUESTION, "这是什么？"])


def test_a_tab_shows_an_answer_that_another_writes_and_may_delete_it(
    server: PageServer, page: Page, open_page: Callable[..., Page], slow: threading.Event
) -> None:
    ask(page, QUESTION, MOON)
    expect(page.locator(".said.writing")).not_to_be_empty()
    other = open_page(server.url, beside=page)
    other.locator("#clear").click()
    other.locator("#clear-confirmed").click()
    expect(other.locator("#dialogues li")).to_have_count(0)
    slow.set()
    expect(page.locator("article")).to_have_count(0)
    other.reload()
    expect(other.locator("#no-dialogues")).to_be_visible()


def test_a_reload_keeps_what_is_not_sent_yet(page: Page) -> None:
    page.locator("#question").fill("half a question")
    page.reload()
    expect(page.locator("#question")).to_have_value("half a question")


def test_dialogues_can_be_deleted(page: Page) -> None:
    for number in (1, 2):
        page.locator("#new").click()
        ask(page, f"你好 {number}")
        expect(answers(page)).to_have_count(1)
    expect(page.locator("#dialogues li")).to_have_count(2)
    page.locator("#dialogues li").filter(has_text="你好 1").hover()
    page.locator("#dialogues li").filter(has_text="你好 1").get_by_role("button", name="Delete this chat").click()
    expect(page.locator("#dialogues li")).to_have_count(1)
    page.locator("#clear").click()
    page.locator("#clear-confirmed").click()
    expect(page.locator("#dialogues li")).to_have_count(0)
    expect(page.locator("article")).to_have_count(0)
    page.reload()
    expect(page.locator("article")).to_have_count(0)


def test_a_large_image_is_shrunk_before_it_is_sent(page: Page, tmp_path: Path) -> None:
    from PIL import Image

    Image.effect_noise((3000, 2000), 80).save(tmp_path / "large.png")
    sizes: list[int] = []
    page.on("request", lambda asked: sizes.append(len(asked.post_data or "")) if asked.method == "POST" else None)
    ask(page, "这是什么？", tmp_path / "large.png")
    expect(page.locator("#messages[aria-busy=false] .answer")).to_have_count(1)
    assert (tmp_path / "large.png").stat().st_size > 3_000_000 and sizes[0] < 2_000_000
