"""The page explains an answer: the map of a word over the image, its figure, and a warning where it does not hold."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect

import visualglm

from .chromium import SAMPLES, PageServer, answers, ask
from .test_accessibility import check

pytestmark = pytest.mark.slow

STAR = SAMPLES["star"]
QUESTION = "What is in the picture?"
NAMES = {"en-US": "Explain", "zh-CN": "解释", "zh-TW": "解釋"}
STRONGEST = """canvas => {
  const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const sums = [...Array(width * height).keys()].map(i => data[4 * i] + data[4 * i + 1] + data[4 * i + 2]);
  return [width, height, sums.indexOf(Math.max(...sums))];
}"""


def open_dialog(page: Page, name: str = "Explain") -> None:
    page.locator(".answer").last.get_by_role("button", name=name).click()
    expect(page.locator("#explain-dialog")).to_be_visible()
    expect(page.locator("#words button").first).to_be_visible()


@pytest.mark.parametrize(
    ("locale", "width", "scheme"), [("en-US", 1280, "light"), ("zh-CN", 390, "dark"), ("zh-TW", 390, "light")]
)
def test_the_map_and_the_figure_are_those_of_explain(
    opened: visualglm.VisualGLM,
    server: PageServer,
    open_page: Callable[..., Page],
    locale: str,
    width: int,
    scheme: str,
) -> None:
    page = open_page(server.url, locale, width, color_scheme=scheme, reduced_motion="reduce")
    ask(page, QUESTION, STAR)
    expect(answers(page)).to_have_count(1)
    answer = answers(page).nth(0).inner_text()
    open_dialog(page, NAMES[locale])
    for word in (None, opened.explain(STAR, QUESTION, answer=answer).words[-1].text):
        if word is not None:
            page.locator("#words").get_by_role("button", name=word, exact=True).click()
        expect(page.locator(".map.waiting")).to_have_count(0)
        expected = opened.explain(STAR, QUESTION, answer=answer, word=word)
        area = f"{expected.deletion.area:+.2f}".replace("-", "−")
        expect(page.locator("#explain-figure")).to_contain_text(area)
        expect(page.locator("#explain-warning")).to_be_visible(visible=not expected.exceeds_chance)
        found = page.locator("#explain-dialog canvas").evaluate(STRONGEST)
        assert found == [*reversed(expected.explained.map.shape), int(expected.explained.map.argmax())]
    image, canvas = (page.locator(f"#explain-dialog {name}").bounding_box() for name in ("img", "canvas"))
    assert image == canvas and image is not None and image["width"] > 200
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    check(page)


def test_a_map_no_better_than_chance_is_warned_of(page: Page) -> None:
    def spoil(route: Route) -> None:
        reply = route.fetch()
        body = reply.json()
        body["deletion"] |= {"area": -0.5, "low": -1.25, "high": 0.25, "exceeds_chance": False}
        route.fulfill(response=reply, body=json.dumps(body))

    page.route("**/v1/explain", spoil)
    ask(page, QUESTION, STAR)
    open_dialog(page)
    expect(page.locator("#explain-figure")).to_contain_text("−0.50 nats per token, 95 % interval [−1.25, +0.25]")
    expect(page.locator("#explain-figure")).not_to_contain_text("less likely")
    expect(page.locator("#explain-warning")).to_have_text(
        "This map explains no better than chance. Do not draw conclusions from it."
    )


def test_a_later_answer_is_explained_with_its_dialogue(page: Page) -> None:
    bodies: list[dict[str, object]] = []
    page.on("request", lambda sent: bodies.append(sent.post_data_json) if sent.url.endswith("/explain") else None)
    ask(page, QUESTION, STAR)
    expect(answers(page)).to_have_count(1)
    ask(page, "How many objects are there?")
    expect(answers(page)).to_have_count(2)
    first, second = (answers(page).nth(number).inner_text() for number in range(2))
    open_dialog(page)
    assert bodies[0]["history"] == [[QUESTION, first]] and bodies[0]["answer"] == second
    assert bodies[0]["model"] == "visualglm-mini" and str(bodies[0]["image"]).startswith("data:image/png;base64,")


def test_only_answers_about_one_image_have_the_button(page: Page) -> None:
    ask(page, "你好")
    expect(answers(page)).to_have_count(1)
    ask(page, QUESTION, STAR)
    expect(answers(page)).to_have_count(2)
    expect(page.get_by_role("button", name="Explain")).to_have_count(0)
    page.locator("#new").click()
    ask(page, QUESTION, STAR, SAMPLES["moon"])
    expect(answers(page)).to_have_count(1)
    expect(page.get_by_role("button", name="Explain")).to_have_count(0)


def test_the_keyboard_is_enough_and_closing_cancels(server: PageServer, page: Page) -> None:
    ask(page, QUESTION, STAR)
    expect(answers(page)).to_have_count(1)
    page.get_by_role("button", name="Explain").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#words button").first).to_be_visible()
    page.locator("#words button").nth(1).focus()
    page.keyboard.press("Space")
    expect(page.locator("#words button").nth(1)).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(page.locator("#explain-dialog")).to_be_hidden()
    expect(page.get_by_role("button", name="Explain")).to_be_focused()
    held: list[Route] = []
    page.route("**/v1/explain", lambda route: held.append(route))  # a reply that never comes
    page.keyboard.press("Enter")
    expect(page.locator("#explain-figure")).to_have_text("The explanation is being computed.")
    while not held:  # closed before it is sent, a request would not fail but never be
        page.wait_for_timeout(20)
    with page.expect_event("requestfailed") as ended:
        page.keyboard.press("Escape")
    assert ended.value.url.endswith("/v1/explain")
    expect(page.locator("#explain-dialog")).to_be_hidden()
    page.unroute_all(behavior="ignoreErrors")
    page.keyboard.press("Enter")
    expect(page.locator("#words button").first).to_be_visible()


@pytest.mark.parametrize(
    ("status", "code", "message", "shown"),
    [
        (501, "not_available", "Start it with transformers.", "This server cannot explain answers. Start it with"),
        (503, "busy", "Busy.", "The server is busy."),
        (500, "server_error", "See the log.", "The server failed to answer."),
        (400, "invalid_prompt", "Shorten them.", "The server refused the question. Shorten them."),
    ],
)
def test_an_error_is_shown_in_the_dialog(page: Page, status: int, code: str, message: str, shown: str) -> None:
    body = json.dumps({"error": {"message": message, "code": code}})
    page.route("**/v1/explain", lambda route: route.fulfill(status=status, content_type="application/json", body=body))
    ask(page, QUESTION, STAR)
    page.get_by_role("button", name="Explain").click()
    expect(page.locator("#explain-warning")).to_contain_text(shown)
    expect(page.locator("#explain-wait")).to_be_hidden()
    expect(page.locator("#explain-figure")).to_have_text("")
