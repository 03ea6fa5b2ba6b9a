"""Draw docs/images/page_*.png, images of the web page with the packed model, and its icon as a PNG.

Run: `make screenshots`. Needs a Chromium and fonts with Chinese characters.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import uvicorn
from playwright.sync_api import Browser, expect, sync_playwright
from shrink_image import shrink

import visualglm
from visualglm.serving.app import ServerSettings, create_app

IMAGES = Path(__file__).with_name("images")
PREVIEW = Path(visualglm.__file__).parent / "serving" / "web" / "preview.png"
SHOTS = {
    "page_desktop": ("en-US", 1280, 800, "light", ["How many objects are there?", "What is the background?"]),
    "page_desktop_zh": ("zh-CN", 1280, 800, "light", ["一共有几个物体？", "背景是什么？"]),
    "page_phone_dark": ("en-US", 390, 844, "dark", ["How many objects are there?"]),
    "page_phone_zh_tw": ("zh-TW", 390, 844, "light", []),
}
"""Name -> locale, width, height, colour scheme, and the questions after the first example's; none: the start page."""


def main() -> None:
    """Serve the page and draw each image."""
    fonts = shutil.which("fc-list")
    if fonts and not subprocess.run([fonts, ":lang=zh"], capture_output=True, check=True).stdout:
        sys.exit("No font has Chinese characters, so they would be boxes. Install one, such as fonts-noto-cjk.")
    app = create_app(visualglm.load(device="cpu"), ServerSettings(miniature=True))
    config = uvicorn.Config(app, "127.0.0.1", 0, log_level="warning")
    server, bound = uvicorn.Server(config), config.bind_socket()
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (locale, width, height, scheme, questions) in SHOTS.items():
            draw(browser, url, IMAGES / f"{name}.png", locale, (width, height), scheme, questions)
        draw_preview(browser, url)
        browser.close()
    server.should_exit = True
    thread.join()


def draw(
    browser: Browser,
    url: str,
    file: Path,
    locale: str,
    size: tuple[int, int],
    scheme: str,
    questions: list[str],
) -> None:
    """Ask the first example and the questions in a new browser context, and save what it shows."""
    context = browser.new_context(
        locale=locale, viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(url)
    expect(page.locator("#banner")).to_be_visible()
    if questions:
        page.locator("#examples button").first.click()
    for number, question in enumerate(questions, 1):
        expect(page.locator("#messages[aria-busy=false] .answer")).to_have_count(number, timeout=60_000)
        page.locator("#question").fill(question)
        page.locator("#question").press("Enter")
    if questions:
        expect(page.locator("#messages[aria-busy=false] .answer")).to_have_count(len(questions) + 1, timeout=60_000)
    page.screenshot(path=file)
    context.close()
    shrink(file)


def draw_preview(browser: Browser, url: str) -> None:
    """Draw the page's icon at 128 x 128 pixels: sites that show a link to the page take no SVG."""
    page = browser.new_page(device_scale_factor=2)
    page.goto(url)
    page.locator("#start img").first.screenshot(path=PREVIEW)
    page.close()
    shrink(PREVIEW)


if __name__ == "__main__":
    main()
