"""Explain an answer: a map of patches for each word, and the deletion curve of what is explained.

an answered question and its image -- attribute --> a map for each token -- words --> a map for each word
                                   -- measure_deletion --> DeletionCurve
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from ..errors import PromptError
from ..inference.text_row import TextRow
from ..network.visualglm import VisualGLMNetwork
from ..preprocessing.prompt import CHINESE
from ..preprocessing.tokenizer import ChatGLMTokenizer
from .attribution import Method, attribute
from .deletion import (
    FRACTIONS,
    ORDERS,
    THOROUGH_FRACTIONS,
    THOROUGH_ORDERS,
    DeletionCurve,
    answer_score,
    measure_deletion,
)
from .words import Word, find_word, words_of

DIGITS = 7
"""Decimal places of a map in JSON."""


@dataclass(frozen=True)
class WordMap:
    """A word, the positions of its tokens in the answer, and its map [rows, columns], which sums to 1."""

    text: str
    tokens: tuple[int, ...]
    map: Tensor


@dataclass(frozen=True)
class Explanation:
    """What an answer rests on: `words` with their maps, and the deletion curve of `explained`.

    `explained` is the whole answer, or the word that was asked for. `image` is what the model was shown, or None where
    it was not kept.
    """

    question: str
    answer: str
    method: Method
    words: tuple[WordMap, ...]
    explained: WordMap
    deletion: DeletionCurve
    image: Image | None = None

    @property
    def exceeds_chance(self) -> bool:
        """Whether hiding the map's patches matters more than hiding random ones."""
        return self.deletion.exceeds_chance

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON, without the image."""
        curve = {**asdict(self.deletion), "exceeds_chance": self.exceeds_chance}
        return {
            "question": self.question,
            "answer": self.answer,
            "method": self.method,
            "words": [_word_for_json(word) for word in self.words],
            "explained": _word_for_json(self.explained),
            "deletion": curve,
        }


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question and its answer, as texts, and as ids: the whole prompt, and the answer without `<eop>`."""

    question: str
    answer: str
    prompt_ids: list[int]
    answer_ids: list[int]


def answered_by(
    row: TextRow, question: str, tokenizer: ChatGLMTokenizer, answer: str | None = None
) -> AnsweredQuestion:
    """Return the question with `answer`, or if it is None, with the answer of its finished row."""
    if answer is not None:
        return AnsweredQuestion(question, answer, row.input_ids, tokenizer.encode_plain(answer))
    ids = tokenizer.encode_plain(row.text) if row.settings.stops else [one for one in row.ids if one not in row.eos]
    return AnsweredQuestion(question, row.text, row.input_ids, ids)


def explain_answer(
    network: VisualGLMNetwork,
    tokenizer: ChatGLMTokenizer,
    asked: AnsweredQuestion,
    pixel_values: Tensor,
    image: Image | None = None,
    method: Method = "rollout",
    word: str | None = None,
    thorough: bool = False,
) -> Generator[None, None, Explanation]:
    """Explain an answer about one image, `pixel_values` [1, 3, H, W]; yield after each forward pass.

    `word`: explain this word of the answer instead of all. `thorough`: a finer deletion curve with more random orders.

    Raises:
        PromptError: the answer is empty, or the prompt has not one image.
        UsageError: the answer does not contain `word`.
    """
    ids = asked.answer_ids
    if not ids:
        raise PromptError("The answer is empty, so there is nothing to explain. Ask another question.")
    chosen = [find_word(tokenizer, ids, word)] if word is not None else words_of(tokenizer, ids)
    whole = chosen[0] if word is not None else Word(asked.answer, tuple(range(len(ids))))
    input_ids = torch.tensor([asked.prompt_ids + ids])
    found = attribute(network, input_ids, len(ids), pixel_values, method=method)
    yield
    maps = found.maps
    explained = _word_map(whole, maps)
    curve = yield from measure_deletion(
        answer_score(network, input_ids, len(ids), whole.tokens),
        pixel_values,
        explained.map.flatten(),
        float(found.log_probabilities[list(whole.tokens)].mean()),
        THOROUGH_FRACTIONS if thorough else FRACTIONS,
        THOROUGH_ORDERS if thorough else ORDERS,
    )
    words = tuple(_word_map(one, maps) for one in chosen)
    return Explanation(asked.question, asked.answer, method, words, explained, curve, image)


def describe_deletion(explanation: Explanation) -> str:
    """Say in one sentence, in the question's language, what the deletion curve shows."""
    curve, chinese = explanation.deletion, CHINESE.search(explanation.question)
    figures = f"{curve.area:+.2f} [{curve.low:+.2f}, {curve.high:+.2f}]"
    if chinese:
        judged = "优于随机" if curve.exceeds_chance else "警告：这张图并不比随机更能解释回答"
        return f"删除曲线：{figures} nat/token，{len(curve.random)} 个随机顺序；{judged}。"
    judged = "better than chance" if curve.exceeds_chance else "WARNING: this map explains no better than chance"
    return f"Deletion curve: {figures} nats per token, {len(curve.random)} random orders; {judged}."


def warn_of_chance(explanation: Explanation) -> str | None:
    """Return a warning in the question's language if the map explains no better than chance."""
    if explanation.exceeds_chance:
        return None
    if CHINESE.search(explanation.question):
        return "这张图并不比随机更能解释回答，请不要据此下结论。"
    return "This map explains no better than chance. Do not draw conclusions from it."


def _word_map(word: Word, maps: Tensor) -> WordMap:
    """Average the maps [A, N] of a word's tokens over a square grid."""
    side = round(maps.shape[1] ** 0.5)
    return WordMap(word.text, word.tokens, maps[list(word.tokens)].mean(0).reshape(side, side))


def _word_for_json(word: WordMap) -> dict[str, Any]:
    rows = [[round(value, DIGITS) for value in row] for row in word.map.tolist()]
    return {"text": word.text, "tokens": list(word.tokens), "map": rows}
