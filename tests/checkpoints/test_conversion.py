"""Conversion changes the layout and nothing else: any cycle gives back the same bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from filecmp import cmp
from pathlib import Path

import pytest
import torch

from visualglm.checkpoints import convert, open_checkpoint
from visualglm.checkpoints.storage.shards import shard_names
from visualglm.checkpoints.storage.write import split_into_shards
from visualglm.errors import CheckpointError, TokenizerError, UsageError
from visualglm.model import VisualGLMForConditionalGeneration
from visualglm.network.configuration import VisualGLMConfig

from .conftest import ODD_CONFIG, SAT_FILE, assert_same, hf_tensors, random_state, sat_tensors, write_hf


def through(source: Path, folder: Path, *layouts: str) -> Path:
    for index, layout in enumerate(layouts):
        source = convert(source, folder / f"{index}-{layout}", layout, with_fingerprint=False)
    return source


@pytest.mark.parametrize("way", [["native"], ["sat"], ["sat", "native"], ["native", "sat"], ["hf", "sat", "sat"]])
def test_hugging_face_comes_back(hf: Path, tmp_path: Path, way: list[str]) -> None:
    back = through(hf, tmp_path, *way, "hf")
    assert_same(hf_tensors(back), hf_tensors(hf))


@pytest.mark.parametrize("way", [["native"], ["hf"], ["hf", "native"], ["native", "hf"], ["sat", "hf", "hf"]])
def test_sat_comes_back(sat: Path, tmp_path: Path, way: list[str]) -> None:
    back = through(sat, tmp_path, *way, "sat")
    assert_same(sat_tensors(back), sat_tensors(sat))


def test_layouts_agree(hf: Path, sat: Path, tmp_path: Path) -> None:
    written = sat_tensors(through(hf, tmp_path, "sat"))
    for name, tensor in sat_tensors(sat).items():
        if "position_embeddings" not in name or "eva" in name:
            assert torch.equal(written[name].half(), tensor.half()), name


def test_odd_checkpoint_comes_back(odd: Path, tmp_path: Path) -> None:
    back = through(odd, tmp_path, "sat", "native", "hf")
    found = hf_tensors(back)
    buffers = {name: found.pop(name) for name in list(found) if name.endswith("inv_freq")}
    assert_same(found, hf_tensors(odd))
    assert len(buffers) == 2 and all(b.dtype == torch.float16 and b.shape == (4,) for b in buffers.values())


def test_dead_tensors_of_other_dtypes_travel(hf: Path, sat: Path, tmp_path: Path) -> None:
    file = hf / "pytorch_model-00001-of-00003.bin"
    shard = torch.load(file, weights_only=True)
    name = "transformer.layers.0.attention.rotary_emb.inv_freq"
    torch.save(shard | {name: shard[name].float() + 1}, file)
    assert_same(hf_tensors(through(hf, tmp_path / "a", "sat", "native", "hf")), hf_tensors(hf))
    content = {"module": sat_tensors(sat)}
    content["module"]["mixins.chatglm-attn.rotary_emb.inv_freq"] = torch.randn(8)
    torch.save(content, sat / SAT_FILE)
    assert_same(sat_tensors(through(sat, tmp_path / "b", "native", "hf", "sat")), content["module"])


def test_older_sat_generation_is_written_as_newer(sat: Path, tmp_path: Path, edit_json: Callable[..., None]) -> None:
    new = sat_tensors(sat)
    older = dict(new)
    for name, tensor in new.items():
        if name.startswith("transformer.layers.") and "query_key_value" in name:
            older[name] = tensor.unflatten(0, (3, 4, -1)).transpose(0, 1).reshape(tensor.shape)
    torch.save({"module": older}, sat / SAT_FILE)
    edit_json(sat / "model_config.json", pad_token_id=None)
    assert_same(sat_tensors(through(sat, tmp_path, "sat")), new)


def test_keys_and_frequencies_are_kept(odd: Path, sat: Path, tmp_path: Path) -> None:
    for way in (["native"], ["sat"], ["hf"], ["sat", "hf", "native", "sat", "hf"]):
        config = open_checkpoint(through(odd, tmp_path / "".join(way), *way)).config
        ours = VisualGLMConfig().to_dict().keys() - {
            "architectures",
            "transformers_version",
            "vision_config",
            "qformer_config",
        }
        before = open_checkpoint(odd).config
        assert [key for key in ours if getattr(config, key, None) != getattr(before, key, None)] == []
        for part in ("vision_config", "qformer_config"):
            wanted = getattr(before, part).to_dict()
            assert wanted.items() <= getattr(config, part).to_dict().items()
        assert config.a_key_from_elsewhere == [1, 2] and config.rotary_frequencies == "half"
    assert open_checkpoint(through(sat, tmp_path / "s", "hf", "native")).config.rotary_frequencies == "by_dtype"


def test_code_to_download_stays_with_hugging_face(hf: Path, tmp_path: Path) -> None:
    for way, kept in ((["hf"], True), (["native"], False), (["native", "hf"], False), (["sat", "hf"], False)):
        folder = through(hf, tmp_path / ("to-" + "-".join(way)), *way)
        files = [folder / "tokenizer_config.json", folder / "config.json"]
        assert all(("auto_map" in json.loads(file.read_text())) is kept for file in files), way


def test_companions_come_along(hf: Path, sat: Path, tmp_path: Path) -> None:
    (hf / "generation_config.json").write_text('{"top_k": 7}')
    folder = through(hf, tmp_path, "native", "sat")
    assert cmp(folder / "ice_text.model", hf / "ice_text.model", shallow=False)
    assert (folder / "generation_config.json").read_text() == '{"top_k": 7}'
    given = convert(sat, tmp_path / "given", tokenizer=hf, with_fingerprint=False)
    assert (given / "ice_text.model").is_file()
    (hf / "tokenizer_config.json").unlink()
    given = convert(sat, tmp_path / "bare", tokenizer=hf / "ice_text.model", with_fingerprint=False)
    assert json.loads((given / "tokenizer_config.json").read_text())["tokenizer_class"] == "ChatGLMTokenizer"


def test_vocabularies_are_looked_at_before_anything_is_written(sat: Path, tmp_path: Path) -> None:
    image = tmp_path / "rgb.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(TokenizerError, match=r"rgb\.png is not a SentencePiece vocabulary"):
        convert(sat, tmp_path / "none", tokenizer=image)
    with pytest.raises(TokenizerError, match=r"neither a vocabulary file nor a folder with ice_text\.model"):
        convert(sat, tmp_path / "none", tokenizer=tmp_path)
    assert not (tmp_path / "none").exists()


def test_shards_have_an_index(odd: Path, tmp_path: Path) -> None:
    for layout, index in (("hf", "pytorch_model.bin.index.json"), ("native", "model.safetensors.index.json")):
        folder = convert(odd, tmp_path / layout, layout, max_shard_size=30_000, with_fingerprint=False)
        weight_map = json.loads((folder / index).read_text())["weight_map"]
        assert len(set(weight_map.values())) > 2
        assert all((folder / name).stat().st_size < 45_000 for name in weight_map.values())
        assert open_checkpoint(folder).tensors.keys() == open_checkpoint(odd).tensors.keys()
    assert shard_names("bin", len(split_into_shards({}, 1))) == ["pytorch_model-00001-of-00001.bin"]


def test_native_is_what_save_pretrained_writes(odd: Path, tmp_path: Path) -> None:
    model = VisualGLMForConditionalGeneration.from_pretrained(odd)
    model.save_pretrained(tmp_path / "saved")
    saved = open_checkpoint(tmp_path / "saved")
    converted = open_checkpoint(convert(odd, tmp_path / "converted", with_fingerprint=False))
    assert saved.tensors.keys() == converted.tensors.keys()
    assert all(torch.equal(saved.tensors[name].read(), t.read().half()) for name, t in converted.tensors.items())


def test_tied_head_is_stored_once_and_comes_back(tmp_path: Path) -> None:
    state = random_state(ODD_CONFIG)
    state["lm_head.weight"] = state["transformer.word_embeddings.weight"].clone()
    source = write_hf(tmp_path / "tied", ODD_CONFIG, state)
    native = convert(source, tmp_path / "native", with_fingerprint=False)
    assert "lm_head.weight" not in open_checkpoint(native).tensors
    assert json.loads((native / "config.json").read_text())["tie_word_embeddings"] is True
    found = hf_tensors(through(native, tmp_path, "sat", "hf"))
    assert same_head(found) and VisualGLMForConditionalGeneration.from_pretrained(native).config.tie_word_embeddings


def same_head(tensors: dict[str, torch.Tensor]) -> bool:
    return torch.equal(tensors["lm_head.weight"], tensors["transformer.word_embeddings.weight"])


def test_broken_sources_are_refused(odd: Path, tmp_path: Path) -> None:
    write_hf(odd, ODD_CONFIG, {k: v for k, v in random_state(ODD_CONFIG).items() if "glm_proj" not in k})
    with pytest.raises(CheckpointError, match="2 tensors are missing"):
        convert(odd, tmp_path / "out")
    with pytest.raises(UsageError, match="is not a layout"):
        convert(odd, tmp_path / "out", "gguf")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
