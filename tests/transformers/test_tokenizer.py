"""Run transformers' own tokenizer tests on `ChatGLMTokenizer`."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path
from unittest import mock

import pytest

import visualglm.auto  # noqa: F401  # registers
from visualglm.preprocessing.tokenizer import ChatGLMTokenizer

pytest.importorskip("parameterized", reason="not run: transformers' tests need parameterized")
source = pytest.importorskip("tests.transformers.source", reason="not run: there is no source of transformers' tests")
upstream = source.import_upstream("tests.test_tokenization_common")

FOLDER = Path(__file__).parents[1] / "reference" / "hf"
FIXED_SPECIALS = "the special pieces belong to the architecture and cannot be renamed"
NO_MASK = "as upstream, ids that are not padded come without attention_mask"
DIFFERENCES = {
    "test_added_tokens_serialization": FIXED_SPECIALS,
    "test_bos_token_with_add_bos_token_false": FIXED_SPECIALS,
    "test_bos_token_with_add_bos_token_true": FIXED_SPECIALS,
    "test_pad_token_initialization": FIXED_SPECIALS,
    "test_encode_plus_with_padding_0": NO_MASK,
    "test_encode_plus_with_padding_1": NO_MASK,
    "test_batch_encode_dynamic_overflowing": "position_ids are [rows, 2, T], as upstream's",
    "test_padding_to_multiple_of": "position_ids are [rows, 2, T], as upstream's",
    "test_pretokenized_inputs": "a leading space is a piece of its own, as upstream's",
}


class TestTokenizer(upstream.TokenizerTesterMixin, unittest.TestCase):  # type: ignore[misc,name-defined]
    """The tokenizer of the reference folder."""

    tokenizer_class = ChatGLMTokenizer
    from_pretrained_id = (str(FOLDER),)
    from_pretrained_kwargs: dict[str, str] = {}
    test_rust_tokenizer = False
    test_sentencepiece = True

    @classmethod
    def setUpClass(cls) -> None:
        """Replace the sample text, which the sdist lacks."""
        with tempfile.TemporaryDirectory() as folder:
            sample = Path(folder, "fixtures", "sample_text.txt")
            sample.parent.mkdir()
            sample.write_text("A text of a few lines.\n\nIt has words, and numbers: 1 2 3.\n", encoding="utf-8")
            with mock.patch.object(upstream, "get_tests_dir", lambda: folder):
                super().setUpClass()

    def setUp(self) -> None:
        if self._testMethodName in DIFFERENCES:
            self.skipTest(f"different on purpose: {DIFFERENCES[self._testMethodName]}")
