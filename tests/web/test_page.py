"""The page in a real Chromium: ask, look, stop, retry, edit, settings, keys, adapters, languages."""

from __future__ import annotations

import base64
import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

import visualglm
from visualglm.serving.app import ServerSettings

from ..adapters.conftest import made
from .chromium import SAMPLES, PageServer, answers, ask, expect_answer

pytestmark = pytest.mark.slow

MOON = SAMPLES["moon"]
QUESTION, NEXT = "What is in the picture?", "How many objects are there?"
GREETINGS = {"en-US": "Ask about an image", "zh-CN": "就图片提问", "zh-TW": "就圖片提問"}
BACKGROUNDS = {"light": "rgb(247, 248, 250)", "dark": "rgb(18, 21, 28)"}


@pytest.mark.parametrize(
    ("locale", "width", "scheme"), [("en-US", 1280, "light"), ("zh-CN", 390, "dark"), ("zh-TW", 390, "light")]
)
def test_a_dialogue(
    opened: visualglm.VisualGLM,
    server: PageServer,
    open_page: Callable[..., Page],
    locale: str,
    width: int,
    scheme: str,
) -> None:
    page = open_page(server.url, locale, width, color_scheme=scheme)
    expect(page.get_by_role("heading", name=GREETINGS[locale])).to_be_visible()
    expect(page.locator("html")).to_have_attribute("lang", {"en-US": "en"}.get(locale, locale))
    expect(page.locator("#banner")).to_be_visible()
    expect(page.locator("body")).to_have_css("background-color", BACKGROUNDS[scheme])
    conversation = opened.conversation(MOON)
    ask(page, QUESTION, MOON)
    expect_answer(page, 0, conversation.ask(QUESTION).text)
    ask(page, NEXT)
    expect_answer(page, 1, conversation.ask(NEXT).text)
    pane, log = page.locator("#images").bounding_box(), page.locator("#messages").bounding_box()
    assert pane is not None and log is not None
    assert pane["x"] >= log["x"] + log["width"] if width > 800 else pane["y"] + pane["height"] <= log["y"]
    expect(page.locator("#images img")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


def test_text_without_an_image_and_an_empty_question(opened: visualglm.VisualGLM, page: Page) -> None:
    for empty in ("", "  \n "):
        ask(page, empty)
        expect(page.get_by_role("alert")).to_have_text("Write a question first.")
        expect(page.locator("article")).to_have_count(0)
    ask(page, "你好")
    expect_answer(page, 0, opened.ask(None, "你好").text)


def test_an_example_is_asked_at_once(
    opened: visualglm.VisualGLM, server: PageServer, open_page: Callable[..., Page]
) -> None:
    page = open_page(server.url, "zh-CN")
    page.locator("#examples button").nth(3).click()
    expect_answer(page, 0, opened.ask(SAMPLES["circles"], "一共有几个物体？").text)


FILE_EVENT = """([kind, encoded]) => {
  const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "moon.png", { type: "image/png" }));
  const event = kind === "paste" ? new ClipboardEvent(kind, { clipboardData: transfer, bubbles: true })
    : new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true });
  document.querySelector(kind === "paste" ? "#question" : "header").dispatchEvent(event);
}"""


def test_paste_drop_and_camera(opened: visualglm.VisualGLM, page: Page) -> None:
    encoded = base64.b64encode(MOON.read_bytes()).decode()
    page.evaluate(FILE_EVENT, ["paste", encoded])
    expect(page.locator("#attached li")).to_have_count(1)
    page.evaluate(FILE_EVENT, ["dragenter", encoded])
    expect(page.locator("#drop")).to_be_visible()
    page.evaluate(FILE_EVENT, ["drop", encoded])
    expect(page.locator("#drop")).to_be_hidden()
    expect(page.locator("#attached li")).to_have_count(2)
    page.get_by_role("button", name="Take a photo").click()
    page.wait_for_timeout(500)
    page.get_by_role("button", name="Take the photo").click()
    expect(page.locator("#attached li")).to_have_count(3)
    page.get_by_role("button", name="Remove image").nth(2).click()
    page.get_by_role("button", name="Remove image").nth(1).click()
    ask(page, QUESTION)
    expect_answer(page, 0, opened.ask(MOON, QUESTION).text)


def test_stop_ends_the_answer_and_the_next_question_is_answered(
    server: PageServer, page: Page, slow: threading.Event
) -> None:
    ask(page, QUESTION, MOON)
    expect(page.locator(".said.writing")).not_to_be_empty()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".note")).to_have_text("Stopped.")
    stopped = answers(page).nth(0).inner_text()
    page.wait_for_timeout(200)
    slow.set()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    ask(page, NEXT)
    expect(answers(page)).to_have_count(2)
    assert answers(page).nth(0).inner_text() == stopped and server.app.state.engine.queued == 0


def test_retry_samples_or_says_that_greedy_is_the_same(page: Page) -> None:
    ask(page, QUESTION, MOON)
    expect(answers(page)).to_have_count(1)
    page.get_by_role("button", name="Another answer").click()
    expect(page.locator(".note")).to_contain_text("At temperature 0 the answer is always the same")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("2")
    page.get_by_label("Seed").fill("1")
    page.get_by_role("button", name="Done").click()
    bodies: list[dict[str, object]] = []
    page.on("request", lambda asked: bodies.append(asked.post_data_json) if asked.method == "POST" else None)
    before = answers(page).nth(0).inner_text()
    for number in range(1, 30):
        page.get_by_role("button", name="Another answer").click()
        expect(page.locator("#messages[aria-busy=false] .answer")).to_have_count(1)
        assert len(bodies) == number and bodies[-1]["temperature"] == 2 and "seed" not in bodies[-1]
        if answers(page).nth(0).inner_text() != before:
            break
        expect(page.locator(".note")).to_contain_text("The same answer was drawn again")
    assert answers(page).nth(0).inner_text() != before
    ask(page, NEXT)
    expect(answers(page)).to_have_count(2)
    assert bodies[-1]["seed"] == 1 and bodies[-1]["temperature"] == 2


def test_edit_replaces_what_follows(opened: visualglm.VisualGLM, page: Page) -> None:
    ask(page, "你好", MOON)
    expect(answers(page)).to_have_count(1)
    ask(page, NEXT)
    expect(answers(page)).to_have_count(2)
    page.get_by_role("button", name="Edit the question").first.click()
    expect(page.locator("#question")).to_have_value("你好")
    expect(page.locator("#attached li")).to_have_count(1)
    page.locator("#question").fill(QUESTION)
    page.keyboard.press("Enter")
    expect(page.locator(".question")).to_have_count(1)
    expect_answer(page, 0, opened.ask(MOON, QUESTION).text)


def test_copy(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    ask(page, QUESTION, MOON)
    expect(answers(page)).to_have_count(1)
    page.locator(".answer").get_by_role("button", name="Copy").click()
    expect(page.locator("#status")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == answers(page).nth(0).inner_text()


def test_the_keyboard_is_enough(page: Page) -> None:
    expect(page.locator("#question")).to_be_focused()
    page.keyboard.type("first")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second")
    expect(page.locator("#question")).to_have_value("first\nsecond")
    page.locator("#question").fill("")
    seen = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.parentElement?.parentElement?.id"))
    assert {
        "new",
        "language",
        "theme",
        "open-settings",
        "examples",
        "question",
        "attach",
        "camera-open",
        "send",
    } <= seen
    page.locator("#examples button").first.focus()
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_count(1)
    page.locator("#open-settings").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#settings-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#settings-dialog")).to_be_hidden()


def test_language_and_theme_have_switches_that_are_kept(page: Page) -> None:
    page.get_by_label("Language").select_option("zh-TW")
    expect(page.get_by_role("heading", name="就圖片提問")).to_be_visible()
    page.get_by_label("主題").select_option("dark")
    page.reload()
    expect(page.get_by_role("heading", name="就圖片提問")).to_be_visible()
    expect(page.locator("body")).to_have_css("background-color", BACKGROUNDS["dark"])


def test_a_key_is_asked_for_and_kept_for_the_tab(
    serve_page: Callable[..., PageServer], open_page: Callable[..., Page]
) -> None:
    locked = serve_page(ServerSettings(keys=("right",)))
    page = open_page(locked.url)
    dialog = page.locator("#key-dialog")
    expect(dialog).to_be_visible()
    page.get_by_label("API key").fill("wrong")
    page.get_by_role("button", name="Use this key").click()
    expect(dialog).to_be_visible()
    page.locator("#key-dialog .close").click()
    ask(page, "你好")
    expect(page.locator(".error")).to_contain_text("The server needs a key")
    expect(dialog).to_be_visible()
    page.get_by_label("API key").fill("right")
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    page.get_by_role("button", name="Try again").click()
    expect(answers(page)).to_have_count(1)
    page.reload()
    expect(page.locator("#model-name")).to_have_text("visualglm-mini")
    expect(page.locator("#key-dialog")).to_be_hidden()
    other = open_page(locked.url, beside=page)
    expect(other.locator("#key-dialog")).to_be_visible()


def test_adapters_are_offered(
    serve_page: Callable[..., PageServer], open_page: Callable[..., Page], tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="visualglm[train] brings it")
    model = visualglm.load(device="cpu")
    model.add_adapter(made(tmp_path / "noise", str(visualglm.packed_model()), "lora", size=0.05), "noise")
    page = open_page(serve_page(dataclasses.replace(ServerSettings(), miniature=True), model).url)
    choice = page.get_by_label("Model")
    expect(choice).to_have_value("noise")
    asked: list[str] = []
    page.on("request", lambda sent: asked.append(sent.post_data_json["model"]) if sent.method == "POST" else None)
    for number, name in enumerate(("noise", "base")):
        choice.select_option(name)
        ask(page, "你好")
        expect(page.locator("#messages[aria-busy=false] .answer")).to_have_count(number + 1)
    assert asked == ["noise", "base"]
