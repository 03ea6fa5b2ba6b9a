"""Run transformers' own processor tests on `VisualGLMProcessor`."""

from __future__ import annotations

import sys
import unittest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import visualglm.auto  # noqa: F401  # registers
from visualglm.preprocessing.processor import VisualGLMProcessor

pytest.importorskip("parameterized", reason="not run: transformers' tests need parameterized")
source = pytest.importorskip("tests.transformers.source", reason="not run: there is no source of transformers' tests")
# a script of transformers' CI, which the sdist lacks
sys.modules.setdefault("fetch_hub_objects_for_ci", SimpleNamespace(url_to_local_path=str))  # type: ignore[arg-type]
upstream = source.import_upstream("tests.test_processing_common")

FOLDER = Path(__file__).parents[1] / "reference" / "hf"
IMAGE = str(FOLDER.parent / "images" / "rgb.png")
upstream.url_to_local_path = lambda url: IMAGE  # URLs are refused
upstream.MODALITY_INPUT_DATA["images"] = [IMAGE, IMAGE]
TEMPLATE_CUT = "the test truncates; a prompt is never cut, so truncation is refused"
DIFFERENCES = {
    "test_apply_chat_template_image_0": TEMPLATE_CUT,
    "test_apply_chat_template_image_1": TEMPLATE_CUT,
    "test_apply_chat_template_assistant_mask": "other templates need character offsets, which SentencePiece lacks; "
    "our own template gives the mask",
    "test_tokenizer_decode_defaults": "decode gives the answer as upstream shows it, stripped",
}


class TestProcessor(upstream.ProcessorTesterMixin, unittest.TestCase):  # type: ignore[misc,name-defined]
    """The processor of the reference folder."""

    processor_class = VisualGLMProcessor
    model_id = str(FOLDER)

    def setUp(self) -> None:
        if self._testMethodName in DIFFERENCES:
            self.skipTest(f"different on purpose: {DIFFERENCES[self._testMethodName]}")

    @staticmethod
    def prepare_processor_dict() -> dict[str, Any]:
        """Return what the model's configuration says, for a processor that is built from components."""
        return {"image_token_id": 767, "image_length": 32}
