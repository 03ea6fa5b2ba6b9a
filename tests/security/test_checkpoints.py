"""A stranger's folder: small files that ask for huge work, files that never end, settings that hide something.

Each is one sentence and costs next to nothing; the sentence is safe to print.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoProcessor

import visualglm.auto  # registers
from visualglm import load
from visualglm.checkpoints import open_checkpoint
from visualglm.checkpoints.storage import pickle_check
from visualglm.errors import CheckpointError, TokenizerError, UsageError, VisualGLMError
from visualglm.hub.local_folder import packed_model
from visualglm.model import VisualGLMForConditionalGeneration as Model

from ..conftest import REFERENCE

Edit = Callable[[Path], object]
HUGE, DEEP, LONG = 10**9, "[" * 100_000 + "]" * 100_000, "9" * 5_000


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return a folder that was named by its path is no reason to look up or connect to anything."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"asked the network for {args}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def native(tmp_path: Path) -> Path:
    """Return the packed model, its weights linked."""
    folder = tmp_path / "native"
    folder.mkdir()
    for file in packed_model().iterdir():
        if file.name == "model.safetensors":
            os.link(file, folder / file.name) if _same_disk(file, folder) else shutil.copy(file, folder)
        elif file.is_file():
            shutil.copy(file, folder)
    return folder


def _same_disk(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def edit(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file; `part__key` changes one inside."""
    content = json.loads(file.read_text()) if file.exists() else {}
    for key, value in changes.items():
        inside, _, name = key.rpartition("__") if not key.startswith("__") else ("", "", key)
        (content[inside] if inside else content)[name] = value
    file.write_text(json.dumps(content))


def refused(folder: Path, opener: Callable[[Path], Any] = lambda folder: Model.from_pretrained(str(folder))) -> str:
    """One sentence, soon."""
    started = time.process_time()
    with pytest.raises(VisualGLMError) as caught:
        opener(folder)
    message = str(caught.value)
    assert message.isprintable() and message.endswith((".", "?")) and len(message) <= 2000, message
    assert time.process_time() - started < 20
    return message


CONFIGS: dict[str, dict[str, Any]] = {
    "blocks": {"num_layers": HUGE},
    "blocks of the ViT": {"eva_config__num_layers": HUGE},
    "blocks of the Q-Former": {"qformer_config__num_layers": HUGE},
    "a flag for all blocks": {"qformer_config__num_layers": HUGE, "qformer_config__is_decoder": True},
    "width": {"hidden_size": HUGE * 64},
    "inner width": {"inner_hidden_size": HUGE},
    "vocabulary": {"vocab_size": HUGE},
    "a vocabulary of text": {"vocab_size": "x"},
    "a vocabulary below 0": {"vocab_size": -1},
    "length": {"max_sequence_length": 10**30},
    "slots": {"image_length": HUGE, "qformer_config__vocab_size": HUGE},
    "image size": {"eva_config__image_size": [HUGE, HUGE]},
    "no image size": {"eva_config__image_size": []},
    "an image size of lists": {"eva_config__image_size": [[1], [1]]},
    "patch size 0": {"eva_config__patch_size": 0},
    "channels": {"eva_config__in_channels": HUGE},
    "prefix": {"prefix_length": HUGE},
    "a prefix below 0": {"prefix_length": -5},
    "a fraction": {"num_layers": 2.5},
    "true": {"num_layers": True},
    "null": {"hidden_size": None},
    "a list": {"hidden_size": [64]},
    "a text": {"eva_config__hidden_size": "64"},
    "a text of a part": {"eva_config": "x"},
    "an epsilon of text": {"layernorm_epsilon": "x"},
    "infinity": {"layernorm_epsilon": float("inf")},
    "not a number": {"eva_config__layernorm_epsilon": float("nan")},
    "an id of text": {"eos_token_id": "x"},
    "an id below 0": {"image_token_id": -3},
    "no id in a list": {"gmask_token_id": []},
    "no end": {"eos_token_id": []},
    "ids of padding": {"pad_token_id": [3]},
    "no id": {"mask_token_id": None},
    "crossing layers": {"qformer_config__cross_attention_layers": [HUGE], "qformer_config__is_decoder": [True]},
    "a method's name": {"to_dict": 1},
    "another method's name": {"get_text_config": "x"},
    "a property's name": {"vision": 1},
    "a dunder": {"__class__": "x"},
    "sub-configurations": {"sub_configs": {"x": 1}},
    "a method in a part": {"eva_config__to_dict": 1},
    "a dtype that is a function": {"torch_dtype": "load"},
    "a dtype that is a list": {"torch_dtype": [1]},
    "attention from a hub": {"attn_implementation": "someone/kernel"},
    "attention from a hub, spelt otherwise": {"_attn_implementation": "someone/kernel"},
    "attention in a part": {"eva_config__attn_implementation": "someone/kernel"},
    "experts": {"experts_implementation": "someone/kernel"},
    "bitsandbytes": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    "gptq": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    "a quantization that is a text": {"quantization_config": "awq"},
    "rotary": {"rotary_frequencies": ["half"]},
    "model type": {"model_type": ["chatglm"]},
    "escape sequences": {"model_type": "\x1b]0;x\x07\u202e\x9b2J"},
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configurations(hf: Path, case: str) -> None:
    edit(hf / "config.json", **CONFIGS[case])
    refused(hf)


@pytest.mark.parametrize("case", ["blocks", "length", "a text", "a method's name", "attention from a hub"])
def test_configurations_by_every_door(hf: Path, case: str, program: Callable[..., CompletedProcess]) -> None:
    edit(hf / "config.json", **CONFIGS[case])
    for opener in (load, open_checkpoint, AutoConfig.from_pretrained, AutoModel.from_pretrained):
        refused(hf, opener)
    for command in (["ask", "--model", str(hf), str(REFERENCE / "images/rgb.png"), "?"], ["fit", "--model", str(hf)]):
        done = program(*command)
        assert done.returncode == 2 and done.stderr.startswith("visualglm: ") and "Traceback" not in done.stderr
    assert program("convert", str(hf), str(hf.parent / "out")).returncode == 2
    assert program("doctor", "--model", str(hf)).returncode == 1


SAT_CONFIGS: dict[str, dict[str, Any]] = {
    "blocks": {"num_layers": HUGE},
    "a width of text": {"hidden_size": "x"},
    "an id of text": {"bos_token_id": "x"},
    "a prefix without length": {"use_ptuning": True},
    "a prefix": {"use_ptuning": True, "pre_seq_len": HUGE},
    "a part that is a list": {"eva_args": [1]},
}


@pytest.mark.parametrize("case", SAT_CONFIGS)
def test_sats_configurations(sat: Path, case: str) -> None:
    edit(sat / "model_config.json", **SAT_CONFIGS[case])
    refused(sat)


GENERATION: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 100_000},
    "answers": {"num_return_sequences": 100_000},
    "length": {"max_new_tokens": 10**12},
    "beams of text": {"num_beams": "4"},
    "a temperature of text": {"temperature": "hot"},
    "a temperature of a list": {"temperature": [1]},
    "a temperature of nothing": {"do_sample": True, "temperature": 0},
    "top_p": {"top_p": -1},
    "top_k": {"top_k": -5},
    "penalty": {"repetition_penalty": 0},
    "not a number": {"temperature": float("nan")},
    "an id of text": {"eos_token_id": "x"},
    "an id that is not there": {"pad_token_id": HUGE},
    "ids without end": {"suppress_tokens": [1] * 100_000},
    "a method's name": {"validate": 1},
    "another method's name": {"update": {"x": 1}},
    "remote code": {"penalty_alpha": 0.6, "top_k": 4},
    "compiler": {"compile_config": {"backend": "x"}},
    "watermark": {"watermarking_config": {"context_width": HUGE}},
    "a cache": {"cache_implementation": ["static"]},
    "stop strings": {"stop_strings": ["x"] * 1000},
    "a switch of text": {"do_sample": "yes"},
}


@pytest.mark.parametrize("case", GENERATION)
def test_generation_settings(hf: Path, case: str) -> None:
    (hf / "generation_config.json").write_text(json.dumps(GENERATION[case]))
    assert "generation_config.json" in refused(hf)


def test_generation_settings_of_a_caller(opened: Any) -> None:
    for settings in ({"num_beams": 100_000}, {"num_beams": "4"}, {"temperature": float("nan")}, {"max_length": 10**12}):
        with pytest.raises(UsageError):
            opened.ask(None, "?", **settings)


TEXTS = {
    "deep": (DEEP, "nested too deeply"),
    "deep in an object": ('{"model_type": "chatglm", "x": ' + DEEP + "}", "nested too deeply"),
    "deep, but not for Python": ('{"model_type": "chatglm", "x": ' + "[" * 500 + "]" * 500 + "}", "nested too deeply"),
    "digits": ('{"model_type": "chatglm", "num_layers": ' + LONG + "}", "5000 digits"),
    "bytes": (b'{"model_type": "\xff"}', "not UTF-8"),
    "half a character": ('{"model_type": "chatglm", "x": "\\ud800"}', "half a character"),
}


@pytest.mark.parametrize("case", TEXTS)
@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "pytorch_model.bin.index.json"])
def test_json(hf: Path, file: str, case: str) -> None:
    text, sentence = TEXTS[case]
    (hf / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert sentence in refused(hf)


@pytest.mark.parametrize("kind", ["fifo", "zero", "large", "socket"])
@pytest.mark.parametrize(
    "file",
    ["config.json", "generation_config.json", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00003.bin"],
)
def test_files_that_never_end(hf: Path, file: str, kind: str) -> None:
    never_ending(hf / file, kind)
    if kind == "large" and file.endswith(".bin"):
        pytest.skip("a large file of weights is read by its header")
    if file.endswith("index.json") and kind != "large":
        Model.from_pretrained(str(hf))  # the shards' names say what there is
        return
    refused(hf)


def never_ending(file: Path, kind: str) -> None:
    file.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "zero":
        file.symlink_to("/dev/zero")
    elif kind == "socket":
        here = Path.cwd()
        os.chdir(file.parent)  # a socket's path is short
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(file.name)
        finally:
            os.chdir(here)
    else:
        with file.open("wb") as made:
            made.truncate(1 << 40)


@pytest.mark.parametrize("kind", ["fifo", "zero", "large"])
def test_files_of_processors(hf: Path, kind: str) -> None:
    for file in ("processor_config.json", "preprocessor_config.json", "special_tokens_map.json"):
        never_ending(hf / file, kind)
        refused(hf, visualglm.preprocessing.processor.VisualGLMProcessor.from_pretrained)
        (hf / file).unlink()
    never_ending(hf / "ice_text.model", kind)
    with pytest.raises(TokenizerError):
        visualglm.preprocessing.tokenizer.ChatGLMTokenizer(vocab_file=str(hf / "ice_text.model"))
    if kind == "large":
        assert "Download it again" in refused_vocabulary(hf)
    with pytest.raises((VisualGLMError, OSError, ValueError)):  # these files are transformers' to open first
        edit(hf / "config.json", eva_config__image_size=[HUGE, HUGE])
        AutoProcessor.from_pretrained(hf)


def refused_vocabulary(folder: Path) -> str:
    from visualglm.checkpoints.verify import verify

    (failed,) = [check.detail for check in verify(folder) if check.name == "vocabulary"]
    return failed


def test_shards_without_end(hf: Path) -> None:
    (hf / "pytorch_model.bin.index.json").unlink()
    for file in hf.glob("*.bin"):
        file.unlink()
    (hf / "pytorch_model-00001-of-999999999.bin").write_bytes(b"x")
    assert "999999999 shards" in refused(hf)
    (hf / "pytorch_model-00001-of-999999999.bin").rename(hf / "pytorch_model-00001-of-09999.bin")
    assert "and 9990 more" in refused(hf)


def test_latest(sat: Path) -> None:
    (sat / "latest").write_bytes(b"\x1b[2J\xc2\x9b" + b"a" * 100)
    assert "\\u001b" in refused(sat)
    (sat / "latest").write_bytes(b"a" * 1_000_000)
    refused(sat)


def written(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(*shape: Any, kind: str = "F32", at: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": kind, "shape": list(shape), "data_offsets": list(at)}


SAFETENSORS: dict[str, bytes] = {
    "a header of 2 GB": struct.pack("<Q", 1 << 31) + b"{}",
    "deep": written(DEEP.encode()),
    "digits": written(b'{"x": {"dtype": "F32", "shape": [' + LONG.encode() + b'], "data_offsets": [0, 4]}}', b"1234"),
    "overlapping": written({"x": entry(1), "y": entry(1)}, b"1234"),
    "below 0": written({"x": entry(-1, -1)}, b"1234"),
    "backwards": written({"x": entry(1, at=(4, 0))}, b"1234"),
    "before the file": written({"x": entry(1, at=(-4, 0))}, b"1234"),
    "a fraction": written({"x": entry(1.0)}, b"1234"),
    "true": written({"x": entry(True)}, b"1234"),
    "axes": written({"x": entry(*[1] * 100)}, b"1234"),
    "a type of a list": written({"x": entry(1, kind=["F32"])}, b"1234"),  # type: ignore[arg-type]
    "no list": written({"x": 5}),
    "empty, but huge": written({"x": entry(0, 10**30, at=(0, 0))}, b"1234"),
    "escape sequences": written({"\x1b]0;x\x07": entry(1)}, b"1234"),
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_safetensors(native: Path, case: str) -> None:
    (native / "model.safetensors").unlink()
    (native / "model.safetensors").write_bytes(SAFETENSORS[case])
    refused(native)


def torch_zip(file: Path, pickled: bytes, method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("m/data.pkl", pickled)
        archive.writestr("m/version", "3\n")


def hash_bomb(levels: int = 60) -> bytes:
    """Return a dictionary whose key is a tuple of twice the same tuple of twice the same tuple ..."""
    steps = b"".join(
        b"h" + bytes([level]) + b"h" + bytes([level]) + b"\x86q" + bytes([level + 1]) for level in range(levels)
    )
    return b"\x80\x02})q\x00" + steps + b"K\x01s."


@pytest.mark.parametrize("old", [True, False])
def test_pickles(hf: Path, old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_check, "MOST_STEPS", 10_000)
    monkeypatch.setattr(pickle_check, "MOST_PICKLE", 1 << 20)
    for file in hf.glob("pytorch_model*"):
        file.unlink()
    prefix = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    for pickled, sentence in (
        (hash_bomb(), "tuples in tuples"),
        (b"\x80\x02" + b"N" * 12_000 + b".", "steps"),
        (b"\x80\x03B" + struct.pack("<I", 2 << 20) + b"x" * (2 << 20) + b".", "MiB"),
    ):
        if old:
            (hf / "pytorch_model.bin").write_bytes(prefix + pickled)
        else:
            torch_zip(hf / "pytorch_model.bin", pickled)
        assert sentence in refused(hf)


def stands_for_more(hf: Path) -> dict[str, Any]:
    tensors = {
        name: tensor for file in hf.glob("*.bin") for name, tensor in torch.load(file, weights_only=True).items()
    }
    return {name: torch.zeros(1, dtype=tensor.dtype).expand(tensor.shape) for name, tensor in tensors.items()}


PICKLED: dict[str, Callable[[Path], Any]] = {
    "tensors that stand for more": stands_for_more,
    "a name that is a number": lambda hf: {5: torch.ones(1)},
    "a sparse tensor": lambda hf: {"x": torch.ones(2, 2).to_sparse()},
    "a tensor without numbers": lambda hf: {"x": torch.ones(2, device="meta")},
    "complex numbers": lambda hf: {"x": torch.ones(2, dtype=torch.complex64)},
    "a list": lambda hf: [torch.ones(1)],
}


@pytest.mark.parametrize("case", PICKLED)
def test_pickled_contents(hf: Path, case: str) -> None:
    content = PICKLED[case](hf)
    for file in hf.glob("pytorch_model*"):
        file.unlink()
    torch.save(content, hf / "pytorch_model.bin")
    refused(hf)


ODD_STATES: list[Any] = [
    [torch.ones(1), torch.Size([10**9, 10**9]), torch.float16, 64, None, "nf4"],
    [torch.ones(1), torch.Size([64]), torch.float16, 10**12, None, "nf4"],
    [torch.ones(1), "x", torch.float16, 64, None, "nf4"],
    [torch.ones(1), torch.Size([64]), torch.float16, 64, [1, [1, 2, 3]], "nf4"],
    [1, 2, 3, 4, 5, "nf4"],
]
LINEAR = "transformer.layers.0.attention.dense"


def test_fine_tuned_files(sat: Path) -> None:
    file = sat / "1" / "mp_rank_00_model_states.pt"
    module = torch.load(file, weights_only=True)["module"]
    matrices = {f"{LINEAR}.matrix_A.0": torch.ones(0, 64), f"{LINEAR}.matrix_B.0": torch.ones(64, 0)}
    flat = {f"{LINEAR}.matrix_A.0": torch.tensor(1.0), f"{LINEAR}.matrix_B.0": torch.tensor(1.0)}
    many = {f"{LINEAR}.matrix_{side}.{'9' * 4400}": torch.ones(1, 64) for side in "AB"}
    states = [
        {f"{LINEAR}.weight": torch.ones(32, dtype=torch.uint8), f"{LINEAR}.quant_state": state} for state in ODD_STATES
    ]
    for changes in (matrices, flat, many, *states):
        torch.save({"module": {**module, **changes}}, file)
        refused(sat)


def test_compressed_pickles(hf: Path) -> None:
    for file in hf.glob("pytorch_model*"):
        file.unlink()
    torch_zip(hf / "pytorch_model.bin", pickle.dumps({}, 2) + bytes(50_000_000), zipfile.ZIP_DEFLATED)
    assert "compressed" in refused(hf)


ADAPTED = "image_encoder.vit.transformer.layers.0.attention.dense"


@pytest.fixture(scope="module")
def bare() -> Iterator[Any]:
    yield load(device="cpu")


def adapter(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    raw = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": [ADAPTED], **changes}
    (folder / "adapter_config.json").write_text(json.dumps(raw))
    sides = {"A": (2, 256), "B": (256, 2)}
    tensors = {f"base_model.model.{ADAPTED}.lora_{side}.weight": torch.ones(shape) for side, shape in sides.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def test_an_adapter_beside_a_model_is_not_applied(native: Path) -> None:
    pytest.importorskip("peft")
    for file in adapter(native.with_name("adapter"), base_model_name_or_path="someone/else").iterdir():
        shutil.copy(file, native)
    for opener in (load, AutoModel.from_pretrained):
        opened = opener(str(native))
        assert not any("lora" in key for key in getattr(opened, "model", opened).state_dict())
    (native / "config.json").unlink()
    with pytest.raises((VisualGLMError, OSError)) as caught:
        AutoModel.from_pretrained(str(native))
    assert "asked the network" not in str(caught.value)


SLOW = "(a|a)*" * 20 + "(.*)*b"
ADAPTERS: dict[str, dict[str, Any]] = {
    "an expression that takes for ever": {"target_modules": r"(([\w.]+)+)+!"},
    "another": {"target_modules": SLOW},
    "an expression that calls itself": {"target_modules": "(?:(?R)a|b)*"},
    "an expression that counts": {"target_modules": "a{1000000000}"},
    "a rank's": {"rank_pattern": {"a{1000000000}": 2}},
    "an alpha's": {"alpha_pattern": {"(?R)|a": 2}},
    "a list's": {"target_modules": [r"(.*)*x"]},
    "whole parts'": {"modules_to_save": [r"(([\w.]+)+)+!"]},
    "what is left out": {"exclude_modules": r"(([\w.]+)+)+!"},
    "blocks'": {"layers_to_transform": [0], "layers_pattern": r"(([\w.]+)+)+!"},
    "no expression": {"target_modules": "("},
    "layers again and again": {"layer_replication": [[0, 4]] * 100_000},
    "rank": {"r": HUGE},
    "a rank of text": {"r": "x"},
    "rank by name": {"rank_pattern": {"dense": HUGE}},
    "an import": {"megatron_config": {"x": 1}, "megatron_core": "antigravity"},
    "other numbers in the base": {"init_lora_weights": "pissa_niter_9999999"},
    "tokens": {"trainable_token_indices": list(range(1000))},
    "parameters": {"target_parameters": ["x"]},
    "everything": {"target_modules": ".*"},
    "a kind": {"peft_type": ["LORA"]},
    "a bias of numbers": {"bias": -1},
    "a bias of tables": {"bias": {}},
    "an alpha of text": {"lora_alpha": "x"},
    "a flag of text": {"use_dora": "x"},
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_adapters(bare: Any, tmp_path: Path, case: str) -> None:
    pytest.importorskip("peft")
    before = list(bare.model.modules())
    refused(adapter(tmp_path / "a", **ADAPTERS[case]), bare.add_adapter)
    assert bare.adapters == [] and list(bare.model.modules()) == before


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": r".*vit.*layers\.0\.(attention\.dense|none)"},
        {"target_modules": [ADAPTED, "glm_proj"], "exclude_modules": ["glm_proj"], "layers_to_transform": [0]},
        {"r": 9, "rank_pattern": {r"vit\..*layers\.\d+\.attention\.dense": 2}, "alpha_pattern": {"^image.*dense$": 4}},
    ],
)
def test_adapters_that_are_meant_well(tmp_path: Path, settings: dict[str, Any]) -> None:
    pytest.importorskip("peft")
    opened = load(device="cpu")
    opened.add_adapter(adapter(tmp_path / "a", **settings))
    assert opened.model.get_submodule(ADAPTED).scaling == {"adapter0": 2.0}


@pytest.mark.parametrize("kind", ["fifo", "zero", "large"])
def test_adapters_that_never_end(bare: Any, tmp_path: Path, kind: str) -> None:
    for file in ("adapter_config.json", "adapter_model.safetensors", "base.json"):
        folder = adapter(tmp_path / file)
        never_ending(folder / file, kind)
        if file == "base.json" and kind != "large":
            continue  # no regular file, so as good as none
        refused(folder, bare.add_adapter)


def test_nothing_of_a_folder_reaches_the_terminal(hf: Path, program: Callable[..., CompletedProcess]) -> None:
    tensors = {"\x1b]0;owned\x07\u202e\x9b31m": torch.ones(1)}
    for file in hf.glob("pytorch_model*"):
        file.unlink()
    torch.save(tensors, hf / "pytorch_model.bin")
    evil = hf.with_name("h\x1b[31mf")
    hf.rename(evil)
    for command in (
        ["doctor", "--model", str(evil)],
        ["doctor", "--json", "--model", str(evil)],
        ["fit", "--model", str(evil)],
    ):
        done = program(*command)
        assert not set("\x1b\x07\x9b\u202e") & set(done.stdout + done.stderr), command
    assert "\\u001b" in program("ask", "--model", str(evil), str(REFERENCE / "images/rgb.png"), "?").stderr


def test_errors_are_what_they_were() -> None:
    assert isinstance(CheckpointError("x"), ValueError) and str(CheckpointError("图片 é → “x”")) == "图片 é → “x”"
