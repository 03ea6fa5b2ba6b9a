"""`visualglm web`: serve the web page and open it in a browser."""

from __future__ import annotations

import os
import sys
import threading
import time
import webbrowser
from typing import TYPE_CHECKING, Annotated

from . import options
from .grouped_help import server_option
from .serve import ServerFlags, run_server

if TYPE_CHECKING:
    import uvicorn


@options.with_flags
def web(
    flags: options.Flags,
    server: ServerFlags,
    no_browser: Annotated[
        bool, server_option("--no-browser", help="Start without opening the page in a browser.")
    ] = False,
) -> None:
    """Serve the web page and open it in a browser. / 提供网页并在浏览器中打开。

    Example: visualglm web --model visualglm-6b
    """
    run_server(flags, server, open_when_started if has_screen() and not no_browser else None)


def has_screen() -> bool:
    """Return True if a browser can open a window: without a screen, Python would start one for the terminal."""
    return sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def open_when_started(server: uvicorn.Server, url: str) -> None:
    """Open the server's page in the person's browser as soon as the server answers, in a thread of its own."""

    def wait_and_open() -> None:
        while not server.started:
            time.sleep(0.1)
        webbrowser.open(url)

    threading.Thread(target=wait_and_open, daemon=True).start()
