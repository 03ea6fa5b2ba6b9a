"""Accessibility: names of all controls, and axe-core's checks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from .chromium import SAMPLES, PageServer, answers, ask

pytestmark = pytest.mark.slow

NAMELESS = """() => [...document.querySelectorAll("button, input, select, textarea, a")].filter((element) => {
  if (!element.checkVisibility({ visibilityProperty: true })) return false;
  const label = element.getAttribute("aria-label") || element.labels?.[0]?.textContent;
  return !(label || element.textContent).trim();
}).map((element) => element.outerHTML)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("locale", "width"), [("en-US", 1280), ("zh-CN", 390)])
def test_axe_finds_nothing_serious(
    server: PageServer, open_page: Callable[..., Page], locale: str, width: int, scheme: str
) -> None:
    page = open_page(server.url, locale, width, color_scheme=scheme, reduced_motion="reduce")
    check(page)
    ask(page, "What is in the picture?", SAMPLES["moon"])
    expect(answers(page)).to_have_count(1)
    check(page)
    page.locator("#open-settings").click()
    check(page)
    page.locator("#settings-dialog .close").click()
    if width < 800:
        page.locator("#open-menu").click()
        page.wait_for_timeout(300)
        check(page)


def check(page: Page) -> None:
    assert page.evaluate(NAMELESS) == []
    found = Axe().run(page).response["violations"]
    serious = [it for it in found if it["impact"] in ("serious", "critical")]
    assert serious == [], [(it["id"], [node["html"] for node in it["nodes"]]) for it in serious]
