"""Request and response models of `POST /v1/explain`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ...errors import ImageError
from ...explanation.attribution import Method
from ...explanation.explanation import Explanation, describe_deletion, warn_of_chance
from ...preprocessing.prompt import Turn
from ..request_fields import MAX_MESSAGES, SamplingFields
from .upstream_api import PAIR

MAX_ANSWER = 256
"""Maximum tokens of an answer that is explained: each may be a word with a map of its own."""


class ExplainRequest(SamplingFields):
    """`POST /v1/explain`. `image` is a data URL, or http(s) if the server allows its host; the first turn is about it.

    `history` holds earlier questions and answers. `answer` is explained instead of the model's own. `word` is a word of
    the answer; without one, every word has a map. `method` is `rollout` or `gradient`.
    """

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    image: str
    question: str
    history: Annotated[list[PAIR], Field(max_length=MAX_MESSAGES, fail_fast=True)] | None = None
    answer: str | None = None
    word: Annotated[str, StringConstraints(max_length=100)] | None = None
    method: Method | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_ANSWER)] | None = None

    def turns(self) -> list[Turn]:
        """Return the dialogue; its image belongs to the first turn."""
        texts: list[tuple[str, str | None]] = [*((q, a) for q, a in self.history or []), (self.question, None)]
        return [Turn(question, answer, int(place == 0)) for place, (question, answer) in enumerate(texts)]

    def take_image(self) -> str:
        """Return the image, and keep none while the request waits.

        Raises:
            ImageError: it is empty.
        """
        if not self.image:
            raise ImageError("There is no image. Send image as a data URL (data:image/png;base64,...).")
        image, self.image = self.image, ""
        return image


class WordMapObject(BaseModel):
    """A word, the positions of its tokens in the answer, and its map over the image, row by row, which sums to 1."""

    text: str
    tokens: list[int]
    map: list[list[float]]


class DeletionObject(BaseModel):
    """The deletion curve: mean log probability per token by hidden fraction, and the area with its 95 % interval."""

    fractions: list[float]
    attended: list[float]
    random: list[list[float]]
    area: float
    low: float
    high: float
    exceeds_chance: bool


class ExplanationObject(BaseModel):
    """What an answer rests on. `summary` and `warning` are sentences; `warning` is null where the map beats chance."""

    object: Literal["explanation"] = "explanation"
    model: str
    miniature: bool
    question: str
    answer: str
    method: Method
    words: list[WordMapObject]
    explained: WordMapObject
    deletion: DeletionObject
    summary: str
    warning: str | None

    @classmethod
    def of(cls, explanation: Explanation, model: str, miniature: bool) -> ExplanationObject:
        """Build the response to a request for this model."""
        sentences = {"summary": describe_deletion(explanation), "warning": warn_of_chance(explanation)}
        return cls.model_validate({**explanation.to_dict(), **sentences, "model": model, "miniature": miniature})
