"""Stop strings: however a text is cut into pieces, what is shown is the text before the first complete stop string."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from visualglm.inference.stop_strings import StopFilter

LETTERS = st.text("ab。", max_size=12)


@example(["ba", "a"], ["a", "baa"])
@example(["b", "a", "a"], ["a", "baa"])
@given(st.lists(LETTERS, max_size=8), st.lists(st.text("ab。", min_size=1, max_size=4), max_size=4))
def test_pieces_make_no_difference(pieces: list[str], stops: list[str]) -> None:
    found = StopFilter(stops)
    shown = "".join(found.feed(piece, final=place == len(pieces) - 1) for place, piece in enumerate(pieces))
    text = "".join(pieces)
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert shown == (text[: min(ends)[1]] if ends else text)
    assert found.stopped == bool(ends)


def test_what_cannot_begin_a_stop_string_is_shown_at_once() -> None:
    found = StopFilter(["</s>"])
    assert [found.feed(piece) for piece in ("a<", "b", "</", "s", "x")] == ["a", "<b", "", "", "</sx"]
