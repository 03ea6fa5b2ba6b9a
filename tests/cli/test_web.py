"""`visualglm web`: the page is opened once the server answers, and only where there is a screen."""

from __future__ import annotations

import importlib
import threading
import webbrowser
from types import SimpleNamespace
from typing import Any

import pytest

web = importlib.import_module("visualglm.cli.web")  # the name `visualglm.cli.web` is the command


def test_the_page_is_opened_once_the_server_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    done = threading.Event()
    monkeypatch.setattr(webbrowser, "open", lambda url: (opened.append(url), done.set()))
    server: Any = SimpleNamespace(started=False)
    web.open_when_started(server, "http://127.0.0.1:8080")
    assert not done.wait(0.3) and opened == []
    server.started = True
    assert done.wait(30) and opened == ["http://127.0.0.1:8080"]


@pytest.mark.parametrize(
    ("arguments", "display", "opens"), [([], ":0", True), ([], "", False), (["--no-browser"], ":0", False)]
)
def test_a_browser_needs_a_screen(
    monkeypatch: pytest.MonkeyPatch, program: Any, arguments: list[str], display: str, opens: bool
) -> None:
    pytest.importorskip("fastapi", reason="needs visualglm[serve]")
    given: list[Any] = []
    monkeypatch.setattr(web, "run_server", lambda *arguments: given.append(arguments[-1]))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    program("web", *arguments)
    assert given == [web.open_when_started if opens else None]
