"""`visualglm web`: serve the web page and open it in a browser."""

from __future__ import annotations

import os
import sys
import threading
import time
import webbrowser
from typing import TYPE_CHECKING, Annotated

from ..serving.limits import EngineLimits
from . import options
from .grouped_help import server_option
from .model_name import served_name
from .serve import (
    AdapterFlags,
    Host,
    Insecure,
    KeyFile,
    MaxBatch,
    MaxQueue,
    Port,
    TimeLimit,
    listening_at,
    run_server,
)

if TYPE_CHECKING:
    import uvicorn


@options.with_flags
def web(
    flags: options.Flags,
    adapter: AdapterFlags = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    api_key_file: KeyFile = None,
    insecure: Insecure = False,
    max_queue: MaxQueue = EngineLimits.max_queue,
    max_batch: MaxBatch = EngineLimits.max_batch,
    time_limit: TimeLimit = EngineLimits.time_limit,
    no_browser: Annotated[
        bool, server_option("--no-browser", help="Start without opening the page in a browser.")
    ] = False,
) -> None:
    """Serve the web page and open it in a browser. / 提供网页并在浏览器中打开。

    Example: visualglm web --model visualglm-6b
    """
    listening = listening_at(host, port, api_key_file, insecure)
    from ..serving.app import ServerSettings
    from ..serving.model_ids import parse_adapter_flags

    settings = ServerSettings(
        name=served_name(flags.model),
        keys=listening.keys,
        trusted_hosts=listening.trusted_hosts,
        limits=EngineLimits(max_queue, max_batch, time_limit),
    )
    before_run = open_when_started if has_screen() and not no_browser else None
    run_server(flags, settings, listening, parse_adapter_flags(adapter or (), settings.name), before_run)


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
