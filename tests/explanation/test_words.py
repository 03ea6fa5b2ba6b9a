"""The words of an answer, in Chinese and English, with the tokens that write them."""

from __future__ import annotations

import pytest

from visualglm.errors import UsageError
from visualglm.explanation.words import find_word, words_of
from visualglm.preprocessing.tokenizer import ChatGLMTokenizer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("A red circle, and two well-known stars.", ["A", "red", "circle", "and", "two", "well-known", "stars"]),
        ("It doesn't move.", ["It", "doesn't", "move"]),
        ("…!", []),
    ],
)
def test_english_words(tokenizer: ChatGLMTokenizer, answer: str, words: list[str]) -> None:
    assert [word.text for word in words_of(tokenizer, tokenizer.encode_plain(answer))] == words


@pytest.mark.parametrize("answer", ["图中有一个红色的圆形，还有 two stars。", "一只猫🐱在A4纸上", "龘𠮷 rare"])
def test_words_cover_the_text_and_their_tokens_write_them(tokenizer: ChatGLMTokenizer, answer: str) -> None:
    ids = tokenizer.encode_plain(answer)
    words = words_of(tokenizer, ids)
    assert "".join(word.text for word in words) == "".join(c for c in tokenizer.decode(ids) if c.isalnum())
    for word in words:
        assert word.text in tokenizer.decode([ids[token] for token in word.tokens])
    assert [word.tokens for word in words] == sorted(word.tokens for word in words)


def test_a_word_is_found_wherever_it_stands(tokenizer: ChatGLMTokenizer) -> None:
    ids = tokenizer.encode_plain("Red is red, and not redder: 红色的圆")
    first, second = (word.tokens for word in words_of(tokenizer, ids) if word.text.lower() == "red")
    assert find_word(tokenizer, ids, "RED").tokens == (*first, *second)
    assert find_word(tokenizer, ids, "圆").tokens[-1] == len(ids) - 1


@pytest.mark.parametrize("wanted", ["blue", "re", "", " ", "蓝"])
def test_a_word_that_is_missing_is_named_with_those_there(tokenizer: ChatGLMTokenizer, wanted: str) -> None:
    with pytest.raises(UsageError, match=r"The answer has no word .* Its words are: .*red"):
        find_word(tokenizer, tokenizer.encode_plain("red circle"), wanted)
