"""Cut a growing text before the first of its stop strings that is complete."""

from __future__ import annotations

from collections.abc import Sequence


class StopFilter:
    """Filter that holds text back while it may begin a stop string; `stopped` once one was found."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = [stop for stop in stops if stop]
        self.stopped = False
        self._held = ""

    def feed(self, piece: str, final: bool = False) -> str:
        """Add a piece; return the text that may be shown now."""
        if self.stopped:
            return ""
        text = self._held + piece
        # by where they end: however a text is divided, the one that is complete first ends it
        found = [(place + len(stop), place) for stop in self.stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        cut = len(text) if final else len(text) - self._undecided(text)
        self._held = text[cut:]
        return text[:cut]

    def _undecided(self, text: str) -> int:
        """Return how many characters at the end may begin a stop string."""
        longest = max((len(stop) for stop in self.stops), default=1) - 1
        lengths = range(min(longest, len(text)), 0, -1)
        return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in self.stops)), 0)
