"""Run transformers' own image processor tests on `VisualGLMImageProcessor`."""

from __future__ import annotations

import sys
import unittest
from types import SimpleNamespace
from typing import Any

import pytest

import visualglm.auto  # noqa: F401  # registers
from visualglm.preprocessing.images import VisualGLMImageProcessor

pytest.importorskip("parameterized", reason="not run: transformers' tests need parameterized")
source = pytest.importorskip("tests.transformers.source", reason="not run: there is no source of transformers' tests")
# a script of transformers' CI, which the sdist lacks
sys.modules.setdefault("fetch_hub_objects_for_ci", SimpleNamespace(url_to_local_path=str))  # type: ignore[arg-type]
upstream = source.import_upstream("tests.test_image_processing_common")

DIFFERENCES = {
    "test_call_numpy_4_channels": "images are RGB: a fourth channel is dropped",
    "test_new_models_require_torchvision_backend": "Pillow resizes, as in upstream",
}


class ImageProcessingTester(upstream.ImageProcessingTester):  # type: ignore[misc,name-defined]
    """Small random images, and the sizes that the processor makes of them."""

    def __init__(self, parent: Any) -> None:
        super().__init__(parent, size={"height": 18, "width": 18}, do_normalize=True)

    def _get_image_processing_classes(self) -> dict[str, Any]:
        return {"pil": VisualGLMImageProcessor}

    def expected_output_image_shape(self, images: Any) -> tuple[int, int, int]:
        """Return [channels, height, width]."""
        return 3, 18, 18


class TestImageProcessor(upstream.ImageProcessingTestMixin, unittest.TestCase):  # type: ignore[misc,name-defined]
    """The image processor at 18 pixels."""

    image_processor_tester_class = ImageProcessingTester

    def setUp(self) -> None:
        if self._testMethodName in DIFFERENCES:
            self.skipTest(f"different on purpose: {DIFFERENCES[self._testMethodName]}")
        super().setUp()
