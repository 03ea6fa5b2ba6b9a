"""doctor says what is wrong with a checkpoint, and fingerprints catch what shapes cannot show."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from visualglm.checkpoints import convert, fingerprint, open_checkpoint, verify
from visualglm.checkpoints.layerwise_forward import run
from visualglm.cli.convert import convert as convert_command
from visualglm.cli.convert import size_in_bytes
from visualglm.cli.doctor import doctor
from visualglm.errors import CheckpointError, UsageError
from visualglm.model import VisualGLMForConditionalGeneration as Model

from .conftest import ODD_CONFIG, SAT_FILE, hf_tensors, random_state, sat_tensors, write_hf

QKV = "transformer.layers.1.attention.query_key_value.weight"


def results(folder: Path) -> dict[str, str]:
    return {check.name: check.result for check in verify(folder)}


def detail(folder: Path, name: str) -> str:
    return next(check.detail for check in verify(folder) if check.name == name)


@pytest.fixture
def recorded_hf(odd: Path, tmp_path: Path) -> Path:
    return convert(odd, tmp_path / "recorded-hf", "hf")


def rewrite(folder: Path, **changes: torch.Tensor) -> None:
    (file,) = folder.glob("*.bin")
    torch.save(hf_tensors(folder) | changes, file)


def test_raw_download_passes(hf: Path, sat: Path) -> None:
    passed = dict.fromkeys(["files", "tensors", "numbers", "fingerprint", "image", "vocabulary"], "passed")
    assert results(hf) == passed
    assert results(sat) == passed | {"vocabulary": "skipped"}
    assert "no fingerprint stored" in detail(hf, "fingerprint")


@pytest.mark.parametrize("layout", ["native", "hf", "sat"])
def test_conversion_stores_what_the_source_computes(hf: Path, tmp_path: Path, layout: str) -> None:
    target = convert(hf, tmp_path / "out", layout)
    assert set(results(target).values()) == {"passed"}
    stored = fingerprint.read_fingerprint(target)
    assert stored == fingerprint.record(open_checkpoint(hf))
    model = Model.from_pretrained(hf, dtype="float32", attn_implementation="eager")
    ids, images = fingerprint.fixed_input(model.config)
    assert stored["input_ids"] == ids[0].tolist()
    with torch.no_grad():
        whole = model(ids, pixel_values=images).logits[:, -1, :: stored["logits_stride"]]
    assert torch.allclose(torch.tensor(stored["logits"]), whole, atol=1e-5)


def test_no_fingerprint(hf: Path, tmp_path: Path) -> None:
    target = convert(hf, tmp_path / "out", with_fingerprint=False)
    assert not (target / fingerprint.FILE).exists() and results(target)["fingerprint"] == "passed"


def test_layer_by_layer_equals_the_model(odd: Path) -> None:
    model = Model.from_pretrained(odd, dtype="float32")
    ids, images = fingerprint.fixed_input(model.config)
    found = run(open_checkpoint(odd), ids, images)
    with torch.no_grad():
        assert torch.allclose(found.logits, model(ids, pixel_values=images).logits[:, -1], atol=1e-5)
    first, *_, last = found.fingerprints
    assert first == "image_encoder.vit.transformer.layers.0" and last == "transformer.layers.1"
    assert len(found.fingerprints) == 2 + 3 + 2


def test_permuted_rows_are_caught(recorded_hf: Path) -> None:
    weight = hf_tensors(recorded_hf)[QKV]
    rewrite(recorded_hf, **{QKV: weight.unflatten(0, (3, 3, -1)).transpose(0, 1).reshape(weight.shape)})
    assert results(recorded_hf)["fingerprint"] == "failed" and results(recorded_hf)["tensors"] == "passed"
    assert f"first {QKV}" in detail(recorded_hf, "fingerprint")
    assert "the output of transformer.layers.1 differs" in detail(recorded_hf, "fingerprint")
    assert "the logits differ" in detail(recorded_hf, "fingerprint")


def test_swapped_generation_is_caught(recorded_hf: Path, tmp_path: Path) -> None:
    """Someone deletes pad_token_id: every tensor has its shape, every query_key_value is read in the wrong order."""
    sat = convert(recorded_hf, tmp_path / "sat", "sat")
    raw = json.loads((sat / "model_config.json").read_text())
    raw.pop("pad_token_id")
    (sat / "model_config.json").write_text(json.dumps(raw))
    assert "4 tensors changed since the record was made" in detail(sat, "fingerprint")


def test_two_rows_swapped_are_caught(recorded_hf: Path) -> None:
    weight = hf_tensors(recorded_hf)[QKV]
    rewrite(recorded_hf, **{QKV: weight[[1, 0, *range(2, len(weight))]]})
    assert f"1 tensors changed since the record was made, first {QKV}" in detail(recorded_hf, "fingerprint")


def test_a_record_of_other_logits_is_caught(recorded_hf: Path) -> None:
    """The tensors are the same, the computation is not: what a wrong version of the code would look like."""
    raw = json.loads((recorded_hf / "config.json").read_text()) | {"layernorm_epsilon": 0.5}
    (recorded_hf / "config.json").write_text(json.dumps(raw))
    assert "tensors changed" not in detail(recorded_hf, "fingerprint")
    assert "the output of transformer.layers.0 differs" in detail(recorded_hf, "fingerprint")


def test_other_records(recorded_hf: Path, tmp_path: Path) -> None:
    stored = json.loads((recorded_hf / fingerprint.FILE).read_text())
    (recorded_hf / fingerprint.FILE).write_text(json.dumps(stored | {"format_version": 99}))
    assert "Update visualglm" in detail(recorded_hf, "fingerprint")
    (recorded_hf / fingerprint.FILE).write_text("{")
    assert "cannot be read as JSON" in detail(recorded_hf, "fingerprint")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        convert(recorded_hf, tmp_path / "out")


RECORDS: dict[str, dict[str, object]] = {
    "parts missing": {"logits": None, "blocks": None, "tensors": None},
    "no table": {"logits": [[1.0], [1.0, 2.0]]},
    "words": {"logits": [["a"]]},
    "a list": {"blocks": []},
    "a number": {"blocks": {"x": 1}},
    "names only": {"tensors": ["x"]},
    "too large": {"logits": [[10**400]]},
}


@pytest.mark.parametrize("case", RECORDS)
def test_records_that_are_none(recorded_hf: Path, tmp_path: Path, edit_json: Callable[..., None], case: str) -> None:
    edit_json(recorded_hf / fingerprint.FILE, **RECORDS[case])
    assert results(recorded_hf)["fingerprint"] == "failed" and "is incomplete" in detail(recorded_hf, "fingerprint")
    with pytest.raises(CheckpointError, match=r"fingerprint\.json is incomplete .*\. Get it again, or delete it"):
        convert(recorded_hf, tmp_path / "out", report=lambda step: pytest.fail(step))
    assert not (tmp_path / "out").exists()


def test_without_the_fingerprint_record(recorded_hf: Path) -> None:
    (recorded_hf / fingerprint.FILE).write_text("{")
    found = {check.name: check.result for check in verify(recorded_hf, with_fingerprint=False)}
    assert found.pop("fingerprint") == "skipped" and "failed" not in found.values() and len(found) == 5
    run = CliRunner().invoke(command_line(), ["doctor", "--model", str(recorded_hf), "--no-fingerprint"])
    assert run.exit_code == 0 and "-      fingerprint" in run.stdout


def test_conversion_refuses_a_source_that_disagrees_with_its_record(recorded_hf: Path, tmp_path: Path) -> None:
    rewrite(recorded_hf, **{QKV: hf_tensors(recorded_hf)[QKV] * 2})
    with pytest.raises(CheckpointError, match=r"is not what its fingerprint\.json recorded: 1 tensors changed"):
        convert(recorded_hf, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    convert(recorded_hf, tmp_path / "out", with_fingerprint=False)


def test_broken_numbers_and_a_blind_model(odd: Path) -> None:
    state = random_state(ODD_CONFIG)
    state[QKV][3, 3] = float("nan")
    state["lm_head.weight"][0, 0] = float("inf")
    write_hf(odd, ODD_CONFIG, state)
    assert f"NaN or infinite values in 2 tensors: {QKV}, lm_head.weight" in detail(odd, "numbers") or (
        f"lm_head.weight, {QKV}" in detail(odd, "numbers")
    )
    with pytest.raises(CheckpointError, match="holds NaN or infinite values"):
        convert(odd, odd.parent / "converted", with_fingerprint=False)
    assert not (odd.parent / "converted").exists()
    blind = {name: t * 0 if "glm_proj" in name else t for name, t in random_state(ODD_CONFIG).items()}
    write_hf(odd, ODD_CONFIG, blind)
    assert "the model does not see" in detail(odd, "image") and results(odd)["numbers"] == "passed"


def test_incomplete(odd: Path, sat: Path) -> None:
    write_hf(odd, ODD_CONFIG, {k: v for k, v in random_state(ODD_CONFIG).items() if k != QKV})
    assert results(odd) == {"files": "passed", "tensors": "failed", "vocabulary": "skipped"}
    assert QKV in detail(odd, "tensors")
    torch.save({"module": {}}, sat / SAT_FILE)
    assert results(sat) == {"files": "failed"}


def test_vocabularies(hf: Path, odd: Path) -> None:
    shutil.copy(hf / "ice_text.model", odd)
    assert "pieces, the model only 300 rows" in detail(odd, "vocabulary")
    raw = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps(raw | {"gmask_token_id": 402}))
    assert "another model's vocabulary: it has [gMASK] at 401" in detail(hf, "vocabulary")
    (hf / "ice_text.model").write_bytes(b"x")
    assert "is not a SentencePiece model" in detail(hf, "vocabulary")


def command_line() -> typer.Typer:
    app = typer.Typer()
    app.command("doctor")(doctor)
    app.command("convert")(convert_command)
    return app


def test_command_line(hf: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    run = CliRunner().invoke(command_line(), ["convert", str(hf), str(target), "--to", "sat"])
    assert run.exit_code == 0 and run.stdout.strip() == str(target)
    run = CliRunner().invoke(command_line(), ["doctor", "--model", str(target)])
    assert run.exit_code == 0 and run.stdout.count("ok ") == 6
    torch.save({"module": dict(list(sat_tensors(target).items())[:-3])}, target / SAT_FILE)
    run = CliRunner().invoke(command_line(), ["doctor", "--model", str(target), "--json"])
    report = json.loads(run.stdout)
    assert run.exit_code == 1 and not report["ok"]
    assert [check["name"] for check in report["checks"] if check["result"] == "failed"] == ["tensors"]
    run = CliRunner().invoke(command_line(), ["convert", str(hf), str(target)])
    assert isinstance(run.exception, UsageError)


def test_sizes() -> None:
    assert [size_in_bytes(text) for text in ("3.5GB", "500 mb", "1000")] == [3_500_000_000, 500_000_000, 1000]
    for text in ("", "0GB", "many"):
        with pytest.raises(UsageError, match="is not a size"):
            size_in_bytes(text)
