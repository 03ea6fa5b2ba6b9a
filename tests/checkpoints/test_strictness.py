"""Whatever is wrong with a folder is said in one sentence that names it."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from visualglm.checkpoints import open_checkpoint
from visualglm.errors import CheckpointError, ConfigurationError, VisualGLMError
from visualglm.model import VisualGLMForConditionalGeneration as Model
from visualglm.network.configuration import VisualGLMConfig

from .conftest import ODD_CONFIG, SAT_FILE, random_state, sat_tensors, write_hf

State = dict[str, Tensor]
HTML = b"\n<!DOCTYPE html><html><body>404</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n"


def refused(path: Path | str, sentence: str, kind: type[VisualGLMError] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        Model.from_pretrained(path)
    message = str(caught.value)
    assert re.search(sentence, message), message
    assert "\n" not in message and message.endswith((".", "?")) and len(message) < 1500
    return message


def without(*names: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if not k.startswith(names)}


def reshaped(state: State) -> State:
    return state | {"image_encoder.glm_proj.weight": torch.zeros(48, 25)}


TENSORS = {
    "missing": (without("transformer.layers.1.mlp"), r"4 tensors are missing \(transformer\.layers\.1\.mlp\."),
    "many missing": (without("transformer.layers"), r"24 tensors are missing \(transformer\..* and 16 more\)"),
    "text only": (without("image_encoder"), r"and \d+ more\), so this is a text-only ChatGLM-6B"),
    "no head": (without("lm_head"), r"1 tensors are missing \(lm_head\.weight\)"),
    "unexpected": (lambda s: s | {"a.b": torch.ones(1)}, r"1 tensors are unexpected \(a\.b\)"),
    "misshapen": (reshaped, r"image_encoder\.glm_proj\.weight is \[48, 25\] and should be \[48, 24\]"),
    "LoRA": (
        lambda s: s | {"transformer.layers.0.attention.query_key_value.matrix_A.0": torch.ones(1)},
        r"matrix_A\.0\), so this is a fine-tuned checkpoint\. Merge",
    ),
    "P-tuning": (lambda s: s | {"transformer.prefix_encoder.embedding.weight": torch.ones(1)}, r"P-tuning"),
    "quantized": (
        lambda s: s | {"transformer.layers.0.mlp.dense_h_to_4h.weight_scale": torch.ones(1)},
        r"so this is a quantized checkpoint",
    ),
    "both": (lambda s: reshaped(without("lm_head")(s)), r"missing \(lm_head\.weight\).*; 1 tensors have another shape"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors(tmp_path: Path, case: str) -> None:
    change, sentence = TENSORS[case]
    refused(write_hf(tmp_path / "m", ODD_CONFIG, change(random_state(ODD_CONFIG))), sentence)


def test_sat_tensors(sat: Path) -> None:
    tensors = sat_tensors(sat)
    tensors.pop("mixins.eva.model.glm_proj.bias")
    name = "transformer.layers.0.attention.query_key_value.weight"
    tensors[name] = tensors[name][:-1]
    torch.save({"module": tensors}, sat / SAT_FILE)
    refused(sat, rf"missing \(image_encoder\.glm_proj\.bias\).*{name} is \[191, 64\] and should be \[192, 64\]")


CONFIGS = {
    "ChatGLM2": ({"multi_query_attention": True, "padded_vocab_size": 65024}, "ChatGLM2 or ChatGLM3"),
    "ChatGLM3": ({"kv_channels": 128, "ffn_hidden_size": 13696}, "ChatGLM2 or ChatGLM3"),
    "ChatGLM-6B": ({"eva_config": None, "qformer_config": None}, "text-only ChatGLM-6B"),
    "oblong pictures": ({"eva_config": {"image_size": [224, 336]}}, r"\[224, 336\]. The ViT needs square"),
    "one position channel": ({"position_encoding_2d": False}, "has two position channels"),
    "size that is none": ({"hidden_size": "48"}, "hidden_size is '48'. Write a whole number above 0"),
    "heads": ({"num_attention_heads": 7}, "which is not a multiple of 28 .4 x 7 attention heads"),
    "slots": ({"image_length": 5}, "each query fills one image placeholder"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configurations(odd: Path, edit_json: Callable[..., None], case: str) -> None:
    changes, sentence = CONFIGS[case]
    edit_json(odd / "config.json", **changes)
    assert str(odd) in refused(odd, sentence, ConfigurationError)


def test_other_models(odd: Path, sat: Path, edit_json: Callable[..., None]) -> None:
    edit_json(odd / "config.json", model_type="llama")
    refused(odd, "says model_type 'llama'")
    edit_json(sat / "model_config.json", eva_args=None)
    refused(sat, "lacks eva_args: it is the configuration of another sat model", ConfigurationError)


@pytest.mark.parametrize("file", ["config.json", "pytorch_model.bin.index.json", "pytorch_model-00002-of-00003.bin"])
@pytest.mark.parametrize("content", [HTML, POINTER, b"", b"\x93\x01 gibberish", b"PK\x03\x04 half a zip"])
def test_files_that_are_something_else(hf: Path, file: str, content: bytes) -> None:
    (hf / file).write_bytes(content)
    sentences = {HTML: "is a web page", POINTER: "git lfs pull", b"": "is empty"}
    wrong = "cannot be read as JSON" if file.endswith("json") else "is not a file of PyTorch weights|is truncated"
    assert str(hf / file) in refused(hf, sentences.get(content, wrong))


def test_json_that_is_no_object(hf: Path) -> None:
    (hf / "config.json").write_text("[]")
    refused(hf, "holds no JSON object")


def test_index_without_map(hf: Path) -> None:
    (hf / "pytorch_model.bin.index.json").write_text("{}")
    refused(hf, "has no weight_map")


@pytest.mark.parametrize("name", ["../secret.bin", "/etc/passwd", "sub/x.bin", "..\\\\x.bin", "..", "C:x.bin"])
def test_names_that_lead_elsewhere(hf: Path, sat: Path, name: str, edit_json: Callable[..., None]) -> None:
    edit_json(hf / "pytorch_model.bin.index.json", weight_map={"x": name.replace("\\\\", "\\")})
    refused(hf, r"index\.json asks for .* weights must be beside their index")
    (sat / "latest").write_text(name)
    refused(sat, "latest asks for .* which is not a folder beside it")


@pytest.mark.parametrize("content", ["{", "[]", '{"max_new_tokens": "x"}', '{"cache_implementation": "x"}', "<html>"])
def test_generation_settings(hf: Path, tmp_path: Path, content: str) -> None:
    from visualglm.checkpoints import convert

    for folder in (hf, convert(hf, tmp_path / "native", with_fingerprint=False)):
        (folder / "generation_config.json").write_text(content)
        assert "generation_config.json" in refused(folder, "as JSON|no JSON object|that cannot be used|web page")
        with pytest.raises(CheckpointError, match=r"generation_config\.json"):
            convert(folder, tmp_path / "out", with_fingerprint=False)
    assert not (tmp_path / "out").exists()


def test_folders_in_the_place_of_files(hf: Path, odd: Path, sat: Path) -> None:
    for folder, file, sentence in (
        (odd, "pytorch_model.bin", "has a config.json but no weights"),
        (hf, "pytorch_model.bin.index.json", ""),
        (hf, "config.json", "cannot be read .Is a directory"),
        (sat, SAT_FILE, "is missing, which"),
    ):
        (folder / file).unlink()
        (folder / file).mkdir()
        if sentence:
            assert str(folder) in refused(folder, sentence)
        else:
            Model.from_pretrained(folder)


@pytest.mark.parametrize("file", ["config.json", "pytorch_model-00002-of-00003.bin", "pytorch_model.bin.index.json"])
def test_files_that_may_not_be_read(hf: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def refuse(path: Path, *args: int) -> int:
        if Path(path).name == file:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *args)

    monkeypatch.setattr(os, "open", refuse)
    refused(hf, rf"{file} cannot be read \(Permission denied\)\. Check")


def test_a_folder_that_may_not_be_read(hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> object:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    refused(hf, r"hf cannot be read \(Permission denied\)\. Check")


def test_no_room_to_rewrite_an_old_file(tmp_path: Path) -> None:
    old = write_hf(tmp_path / "old", ODD_CONFIG, random_state(ODD_CONFIG), _use_new_zipfile_serialization=False)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    try:
        refused(old, r"before 1\.6 and has to be rewritten, but .* cannot take it \(File too large\)")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_sat_files_that_are_something_else(sat: Path, tmp_path: Path) -> None:
    for content, sentence in ((HTML, "is a web page"), (POINTER, "git lfs pull")):
        (sat / SAT_FILE).write_bytes(content)
        refused(sat, sentence)
    torch.save({"no module": 1}, sat / SAT_FILE)
    refused(sat, "has no `module`")
    torch.save({"module": {"x": 1}}, sat / SAT_FILE)
    refused(sat, "holds x beside tensors")
    archive = tmp_path / "visualglm-6b.zip"
    archive.write_bytes(HTML)
    refused(archive, "is a web page")
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("visualglm-6b/latest", "1")
    refused(archive, "is an archive: unpack it")
    shutil.copy(archive, sat / SAT_FILE)
    refused(sat, "is a zip archive, not weights: unpack it")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.999])
def test_truncated(hf: Path, sat: Path, odd: Path, tmp_path: Path, keep: float) -> None:
    from visualglm.checkpoints import convert

    native = convert(odd, tmp_path / "native", with_fingerprint=False)
    old = write_hf(tmp_path / "old", ODD_CONFIG, random_state(ODD_CONFIG), _use_new_zipfile_serialization=False)
    for folder, file in (
        (hf, "pytorch_model-00002-of-00003.bin"),
        (sat, SAT_FILE),
        (native, "model.safetensors"),
        (old, "pytorch_model.bin"),
    ):
        path = folder / file
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
        assert str(path) in refused(folder, "truncated|not a complete safetensors file")


def test_code_in_a_pickle_never_runs(odd: Path, sat: Path, tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    for old in (True, False):
        torch.save({"x": Harmful()}, odd / "pytorch_model.bin", _use_new_zipfile_serialization=old)
        refused(odd, "exec.*is not opened, because a pickle can run code")
    torch.save({"module": {}, "x": Harmful()}, sat / SAT_FILE)
    refused(sat, "exec.*is not opened, because a pickle can run code")
    assert not (tmp_path / "ran").exists()


def test_missing_files(hf: Path, sat: Path, tmp_path: Path) -> None:
    (hf / "pytorch_model-00002-of-00003.bin").unlink()
    refused(hf, r"lacks pytorch_model-00002-of-00003\.bin, which pytorch_model\.bin\.index\.json ask")
    (hf / "pytorch_model.bin.index.json").unlink()
    refused(hf, r"lacks pytorch_model-00002-of-00003\.bin")
    for file in hf.glob("*.bin"):
        file.unlink()
    refused(hf, "has a config.json but no weights")
    (sat / "latest").write_text("7")
    refused(sat, r"7/mp_rank_00_model_states\.pt is missing, which .*latest ask")
    (sat / "latest").unlink()
    Model.from_pretrained(sat)
    (sat / SAT_FILE).unlink()
    refused(sat, "has no mp_rank_00_model_states.pt in any step folder")
    (sat / "1/mp_rank_00_model_states.pt").write_bytes(b"x")
    (sat / "model_config.json").unlink()
    refused(sat / "1", "lacks model_config.json")


def test_split_over_processes(sat: Path) -> None:
    (sat / "1/mp_rank_01_model_states.pt").write_bytes(b"x")
    refused(sat, "split over several processes")


def test_wrong_places(hf: Path, sat: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "is empty")
    refused(tmp_path, f"is not a VisualGLM checkpoint: did you mean {tmp_path}/hf")
    refused(tmp_path / "nowhere", "nowhere does not exist")
    refused("./nowhere", "does not exist")
    refused("visualglm-6b", "does not exist. Give the model's folder, or a hub id like zai-org/visualglm-6b")
    (empty / "notes.txt").write_text("x")
    refused(empty, "has neither config.json .* nor model_config.json")
    refused(empty / "notes.txt", "is a file. Give the folder")
    (empty / "adapter_config.json").write_text("{}")
    refused(empty, "holds an adapter")
    (empty / "adapter_config.json").unlink()
    shutil.copy(hf / "pytorch_model-00001-of-00003.bin", empty)
    refused(empty, "has weights but no config.json")


def test_a_folder_of_the_hubs_cache(hf: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "cache/models--THUDM--visualglm-6b/snapshots/abc"
    shutil.copytree(hf, snapshot)
    refused(snapshot.parents[1], f"the files are in {snapshot}")


def test_expected_layout(hf: Path, sat: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a sat folder .*, but a Hugging Face folder .* is expected here"):
        open_checkpoint(sat, expect="hf")
    with pytest.raises(CheckpointError, match=r"is a Hugging Face folder .*, but a sat folder .* is expected here"):
        open_checkpoint(hf, expect="sat")
    assert open_checkpoint(hf, expect="hf").layout == "hf"


def test_a_configuration_is_never_made_up(sat: Path, hf: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"has no config\.json of VisualGLM"):
        VisualGLMConfig.from_pretrained(sat)
    assert VisualGLMConfig.from_pretrained(hf).hidden_size == 64


def test_two_downloads_in_one_folder(hf: Path, sat: Path) -> None:
    shutil.copytree(sat, hf, dirs_exist_ok=True)
    assert open_checkpoint(hf).layout == "hf"
    for file in hf.glob("pytorch_model*"):
        file.unlink()
    assert open_checkpoint(hf).layout == "sat"


def test_unreadable_safetensors(odd: Path, tmp_path: Path) -> None:
    (odd / "pytorch_model.bin").unlink()
    header = json.dumps({"x": {"dtype": "F4", "shape": [1], "data_offsets": [0, 1]}}).encode()
    for content, sentence in (
        (b"\x05\x00\x00\x00\x00\x00\x00\x00hello", "its header cannot be read"),
        (len(header).to_bytes(8, "little") + header + b"\0", "a tensor of type F4"),
        (b"\xff" * 20, "is not a complete safetensors file"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00[]", "is not a table of tensors"),
        (b'\x0a\x00\x00\x00\x00\x00\x00\x00{"x": [1]}', "its entry of x makes no sense"),
    ):
        (odd / "model.safetensors").write_bytes(content)
        refused(odd, sentence)
