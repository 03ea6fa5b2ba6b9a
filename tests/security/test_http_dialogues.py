"""Attacks with the page's dialogues: memory that the framework keeps for browsers, and tracebacks that it prints."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs visualglm[serve]")

import gradio
import httpx

from visualglm.serving.app import ServerSettings
from visualglm.serving.web_page_dialogues import EVENT_BYTES, MALFORMED, Dialogues
from visualglm.serving.web_page_routes import OBJECT_LIMIT, PageRoutes

from ..serving.conftest import Server, serve

__all__ = ["serve"]
API = "/gradio_api/"
PRIVATE = "what is private 4711"


@pytest.fixture(scope="module")
def live(serve: Callable[[ServerSettings], Server]) -> Server:
    return serve(ServerSettings(with_api=False))


@pytest.fixture(scope="module")
def page(live: Server) -> PageRoutes:
    return next(route.app for route in live.app.routes if isinstance(getattr(route, "app", None), PageRoutes))


@pytest.fixture(scope="module")
def handlers(live: Server) -> dict[str, Any]:
    """The page's functions by name."""
    return {it["api_name"]: it for it in httpx.get(f"{live.url}/config").json()["dependencies"]}


def join(live: Server, handler: int, data: list[Any], session: str) -> httpx.Response:
    body = {"data": data, "fn_index": handler, "session_hash": session, "event_data": None}
    return httpx.post(f"{live.url}{API}queue/join", json=body, timeout=60)


def ended(live: Server, session: str) -> dict[str, Any]:
    """The last message of a session's stream."""
    address = f"{live.url}{API}queue/data?session_hash={session}"
    with httpx.stream("GET", address, timeout=60) as reply:
        assert reply.status_code == 200
        events = [json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: ")]
    return next(event for event in reversed(events) if event["msg"] != "close_stream")


def said(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text}], "metadata": None, "options": None}


@pytest.mark.parametrize(
    "data",
    [
        [],
        [1, 2, 3, 4, 5, 6],
        [{"text": PRIVATE, "files": PRIVATE}, None, None, 1, 1, 1],
        [{"text": PRIVATE, "files": [None]}, None, None, 1, 1, 1],
        [{"text": PRIVATE, "files": []}, None, None, PRIVATE, None, []],
        [{"text": PRIVATE, "files": []}, None, None, 1e308, 1, 1],
    ],
)
def test_a_malformed_question_prints_no_traceback(
    live: Server, handlers: dict[str, Any], data: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    session = secrets.token_hex(8)
    assert join(live, handlers["answer"]["id"], data, session).status_code == 200
    assert ended(live, session)["output"]["error"]
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed and PRIVATE not in printed


def test_no_function_prints_what_it_cannot_read(
    live: Server, handlers: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """Each message that pydantic refuses would be three lines of the log, with its text."""
    unlike = {tuple(handler["inputs"]): handler for handler in handlers.values()}
    for handler in unlike.values():
        session = secrets.token_hex(8)
        messages = [{"role": "user", "content": PRIVATE, "metadata": None}] * 50
        assert join(live, handler["id"], [messages] * len(handler["inputs"]), session).status_code == 200
        output = ended(live, session)["output"]
        assert output.get("error", MALFORMED) == MALFORMED
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed and PRIVATE not in printed and len(printed) < 200 * len(unlike)


def test_an_unexpected_failure_of_ours_is_logged_and_explained(
    live: Server,
    handlers: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def fail(*given: Any, **named: Any) -> Any:
        raise RuntimeError("a mistake in the engine")

    monkeypatch.setattr(live.engine, "ask", fail)
    session = secrets.token_hex(8)
    join(live, handlers["answer"]["id"], [{"text": "a", "files": []}, None, None, 1, 1, 1], session)
    assert "operator's log" in ended(live, session)["output"]["error"]
    assert "a mistake in the engine" in caplog.text
    assert "ask" not in capfd.readouterr().out


def test_the_stream_of_an_unknown_session_ends(live: Server, capfd: pytest.CaptureFixture[str]) -> None:
    last = ended(live, "nobody")
    assert last["msg"] == "unexpected_error" and last["session_not_found"]
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("session", ["", "../a", "a" * 65, "é", "a\n", 5, ["a"], {}, True])
@pytest.mark.parametrize("route", ["queue/join", "run/predict", "cancel"])
def test_a_session_has_a_short_name(live: Server, route: str, session: Any) -> None:
    body = {"data": [], "fn_index": 0, "session_hash": session, "event_id": "a"}
    reply = httpx.post(f"{live.url}{API}{route}", json=body)
    assert reply.status_code == 400 and "session" in reply.json()["error"]["message"]


def test_a_dialogue_has_few_messages(live: Server, handlers: dict[str, Any]) -> None:
    reply = join(live, handlers["answer"]["id"], [[{}] * OBJECT_LIMIT], "many")
    assert reply.status_code == 400 and "too long" in reply.json()["error"]["message"]


def keeper(handlers: dict[str, Any]) -> int:
    """A function that keeps the chat as it is sent."""
    return next(
        it["id"] for it in handlers.values() if it["api_name"].startswith("lambda") and it["inputs"] and it["outputs"]
    )


@pytest.mark.parametrize("sessions", [1, 25], ids=["unread answers of one browser", "states of many"])
def test_what_browsers_left_is_bounded(
    live: Server, page: PageRoutes, handlers: dict[str, Any], monkeypatch: pytest.MonkeyPatch, sessions: int
) -> None:
    monkeypatch.setattr(page.dialogues, "byte_limit", 10 * EVENT_BYTES)
    queue, states = page.dialogues.blocks._queue, page.dialogues.blocks.state_holder
    for number in range(25):
        assert join(live, keeper(handlers), [[said("a")]], f"left{number % sessions}").status_code == 200
    deadline = time.monotonic() + 30
    while queue.event_ids_to_events and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [name for name in queue.pending_messages_per_session if name.startswith("left")]
    assert len(left) <= 5
    assert sum(queue.pending_messages_per_session[name].qsize() for name in left) <= 50
    assert sum(map(len, queue.pending_event_ids_session.values())) <= 10
    assert len(queue.event_analytics) <= 1
    assert len([name for name in states.session_data if name.startswith("left")]) <= 10
    assert not states.time_last_used.keys() - states.session_data.keys()


def test_a_browser_that_reads_its_answers_is_not_forgotten(
    live: Server, page: PageRoutes, handlers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page.dialogues, "byte_limit", 10 * EVENT_BYTES)
    for _ in range(12):
        assert join(live, keeper(handlers), [[said("a")]], "reader").status_code == 200
        assert ended(live, "reader")["success"]
        assert "reader" in page.dialogues._held


def test_the_framework_still_has_what_the_bound_counts(page: PageRoutes) -> None:
    """Names inside the framework: another version may move them."""
    assert isinstance(page.dialogues, Dialogues) and isinstance(page.dialogues.blocks, gradio.Blocks)
    assert isinstance(page.dialogues.blocks.state_holder.session_data, dict)
    assert isinstance(page.dialogues.blocks._queue.pending_event_ids_session, dict)
