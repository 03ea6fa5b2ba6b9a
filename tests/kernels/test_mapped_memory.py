"""Tensors in mappings of their own: where they are used, and that their memory goes back."""

import gc
import subprocess
import sys
import textwrap
import weakref

import pytest
import torch

from visualglm.kernels import mapped_memory


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.float16])
@pytest.mark.parametrize("shape", [(3, 5), (1024, 512)])
def test_an_empty_tensor_has_its_shape_and_can_be_written(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    tensor = mapped_memory.empty(shape, dtype)
    assert tensor.shape == shape and tensor.dtype == dtype and tensor.is_contiguous()
    tensor.fill_(7)
    assert (tensor == 7).all()


def test_another_device_is_left_to_torch() -> None:
    assert mapped_memory.empty((1024, 1024), torch.int8, torch.device("meta")).is_meta


def test_the_mapping_ends_with_its_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    mappings = []

    class Watched(mapped_memory.mmap.mmap):
        def __init__(self, *arguments: object, **keywords: object) -> None:
            mappings.append(weakref.ref(self))

    monkeypatch.setattr(mapped_memory.mmap, "mmap", Watched)
    tensor = mapped_memory.empty((1024, 1024), torch.int8)
    assert mappings[0]() is not None
    del tensor
    gc.collect()
    assert mappings[0]() is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_quantized_in_a_thread_and_arranged_in_another_are_in_memory_once() -> None:
    script = """
        import threading
        import torch
        from visualglm.hardware.memory import anonymous_memory
        from visualglm.quantization import QuantizedLinear
        from visualglm.quantization import quantize_weight

        linears = []

        def read():
            for _ in range(24):
                linear = QuantizedLinear(2048, 2048, bits=4)
                linear.weight, linear.weight_scale = quantize_weight(torch.randn(2048, 2048), 4)
                linears.append(linear)

        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
        before = anonymous_memory()
        with torch.inference_mode():
            for linear in linears:
                linear(torch.ones(1, 2048))
        print(anonymous_memory() - before)
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 20e6  # 24 weights of 2.4 MB; twice in memory it was 57e6
