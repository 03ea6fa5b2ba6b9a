"""What a task asks a model (`Query`), what the model replies (`Reply`), and what that is worth (`ScoredRow`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from ..preprocessing.prompt import Turn
from .metrics import Metric

ImageContent = bytes | Image.Image


@dataclass(frozen=True)
class Query:
    """A question about one image.

    Attributes:
        id: unique within a run.
        row: index of the data row it belongs to; it decides which process answers it. Messages count from 1.
        image: reads the image: the bytes of a file, or an image that was drawn.
        image_key: equal for queries about the same image, which is then encoded once.
        history: earlier (question, answer) pairs.
        options: texts whose likelihood as the answer is measured; without any, an answer is generated.
    """

    id: str
    row: int
    image: Callable[[], ImageContent]
    image_key: str
    question: str
    history: tuple[tuple[str, str], ...] = ()
    options: tuple[str, ...] = ()

    @property
    def turns(self) -> list[Turn]:
        """The dialogue, with the image before its first question."""
        asked = [(question, answer) for question, answer in self.history]
        pairs: list[tuple[str, str | None]] = [*asked, (self.question, None)]
        return [Turn(question, answer, int(number == 0)) for number, (question, answer) in enumerate(pairs)]


@dataclass(frozen=True)
class Reply:
    """A generated `text`, or the mean log-probability per token of each option; or the `error` that prevented both."""

    id: str
    text: str | None = None
    scores: tuple[float, ...] | None = None
    error: str | None = None


@dataclass(frozen=True)
class ScoredRow:
    """One unit that counts: a row of data, or a pair of questions that only counts together.

    Attributes:
        group: units of one group (usually an image) are drawn together when intervals are estimated.
        statistics: name -> the numbers that metrics sum over rows.
        quality: 0 (worst) to 1; reports show the worst rows.
        said: (question, answer) pairs.
    """

    id: str
    row: int
    group: str
    statistics: Mapping[str, tuple[float, ...]]
    quality: float
    said: Sequence[tuple[str, str]]
    expected: str
    facets: Mapping[str, str] = field(default_factory=dict)
    errors: Sequence[str] = ()
    image: Callable[[], ImageContent] | None = None


class Task(Protocol):
    """What `visualglm evaluate --task` runs."""

    @property
    def name(self) -> str:
        """The value of --task."""

    @property
    def metrics(self) -> Sequence[Metric]:
        """The figures of the task, the most important one first."""

    @property
    def max_new_tokens(self) -> int:
        """Length limit of an answer, unless the user gives one."""

    def queries(self, replies: Mapping[str, Reply]) -> list[Query]:
        """List what can be asked now, in order: some questions depend on earlier replies."""

    def score(self, replies: Mapping[str, Reply]) -> list[ScoredRow]:
        """Score every unit; one without a reply is wrong."""

    def baselines(self) -> Mapping[str, float]:
        """Map metrics to what a model that does not look reaches: the commonest answer, or chance."""


def text_of(replies: Mapping[str, Reply], id: str) -> tuple[str, list[str]]:
    """Return the text of a reply ("" if there is none) and its errors."""
    reply = replies.get(id)
    if reply is None:
        return "", ["it was not asked"]
    return reply.text or "", [reply.error] if reply.error else []
