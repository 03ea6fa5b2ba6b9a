"""Upstream's own arithmetic: the bits that its code stored of the reference model, and the logits it then computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ..conftest import REFERENCE, Reference, open_reference
from .upstream_arithmetic import dequantize_rows, quantize_rows

STORED = "attention.dense"
LINEARS = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")


@pytest.fixture(scope="module")
def stored() -> Any:
    return np.load(REFERENCE / "quantization.npz")


@pytest.mark.parametrize("bits", [8, 4])
def test_bits_and_logits_are_upstreams(bits: int, stored: Any, reference: Reference) -> None:
    model = open_reference()
    for index, layer in enumerate(model.transformer.layers):
        for name in LINEARS:
            linear = layer.get_submodule(name)
            integers, scale = quantize_rows(linear.weight.detach(), bits)
            if (index, name) == (0, STORED):
                assert np.array_equal(integers.numpy(), stored[f"int{bits}/layers.0.{name}.weight"]), name
                assert np.array_equal(scale.numpy(), stored[f"int{bits}/layers.0.{name}.weight_scale"]), name
            linear.weight.data = dequantize_rows(integers, scale, bits).float()
    with torch.no_grad():
        found = model(**reference.inputs("img_zh"), use_cache=False).logits[0, -1]
    wanted = torch.tensor(stored[f"int{bits}/img_zh/logits_last"]).flatten()
    assert (found - wanted).abs().max() <= 1e-3 * wanted.abs().max()
