"""What the page's framework holds and logs of dialogues: bounded in bytes, and no tracebacks of what browsers send.

By itself it keeps the state of 10,000 browsers, and every answer that a browser asked for and did not read.
"""

from __future__ import annotations

import logging
from typing import Any

import gradio

logger = logging.getLogger("visualglm.serving")

HELD_BYTES = 32_000_000
"""Of all dialogues, as browsers send them; the framework takes up to ten times as much."""
EVENT_BYTES = 16_384
"""What the framework holds of one question, however short."""
MALFORMED = "The page sent something malformed. Reload the page."


class Dialogues:
    """Counts what the framework holds for each browser's session; beyond `byte_limit` those unused longest go."""

    def __init__(self, blocks: gradio.Blocks, byte_limit: int = HELD_BYTES) -> None:
        self.blocks = blocks
        self.byte_limit = byte_limit
        self._held: dict[str, tuple[int, int]] = {}

    async def admit(self, session: str, size: int) -> None:
        """Count a body of `size` bytes: the largest stays as the session's state, all of them while none is read."""
        size += EVENT_BYTES
        largest, unread = self._held.pop(session, (0, 0))
        if not self.blocks._queue.pending_event_ids_session.get(session):
            unread = 0
        self._held[session] = max(largest, size), unread + size
        while sum(map(sum, self._held.values())) > self.byte_limit:
            await self._forget(next(iter(self._held)))

    async def _forget(self, session: str) -> None:
        del self._held[session]
        queue, states = self.blocks._queue, self.blocks.state_holder
        await queue.clean_events(session_hash=session)
        for held in (queue.pending_messages_per_session, queue.pending_event_ids_session):
            held.pop(session, None)
        for held in (states.session_data, states.time_last_used):
            held.pop(session, None)


def explain_failures(blocks: gradio.Blocks) -> None:
    """Answer what the framework cannot read with one sentence: its tracebacks would hold the dialogue, and thousands of
    lines. What fails in functions of ours, they log themselves."""
    process = blocks.process_api

    async def process_api(*given: Any, **named: Any) -> Any:
        try:
            return await process(*given, **named)
        except gradio.Error as error:
            error.print_exception = False
            raise
        except Exception as error:
            logger.warning("The page's framework refused a dialogue: %s", type(error).__name__)
            raise gradio.Error(MALFORMED, print_exception=False) from None

    blocks.process_api = process_api  # type: ignore[method-assign]
