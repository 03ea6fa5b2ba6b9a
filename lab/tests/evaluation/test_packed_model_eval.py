"""The whole evaluation with few scenes and a tiny album: results, goals, cards, gallery."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from visualglm.conversation import VisualGLM
from visualglm.evaluation.batch_answering import MAX_ANSWER_TOKENS, answer_all
from visualglm.evaluation.encoded_scenes import drawn_scenes, encode_scenes, questions
from visualglm.evaluation.scenes import render_scene
from visualglm_lab.evaluation import __main__, html_gallery
from visualglm_lab.evaluation.dialogue_eval import evaluate_dialogues
from visualglm_lab.evaluation.model_card import block, refresh
from visualglm_lab.evaluation.scene_eval import agreement, pasted_scenes
from visualglm_lab.evaluation.targets import results
from visualglm_lab.scenes.cutouts import Album


@pytest.fixture(scope="module")
def figures(model: VisualGLM, album: Path) -> dict[str, Any]:
    found = __main__.Evaluation(model, scenes=4).run(album)
    return {"date": "2026-11-22", "weights_sha256": "0" * 64, **json.loads(json.dumps(found))}


def test_every_goal_has_figures_and_controls(figures: dict[str, Any]) -> None:
    found = results(figures)
    assert {result.part for result in found} == {"pictures", "drawn", "cut-outs", "both"}
    assert len(found) >= 4 + 6 + 6 + 1 + 2  # so few scenes do not allow every task
    for result in found:
        for entry in result.entries.values():
            assert 0 <= entry["low"] <= entry["share"] <= entry["high"] <= 1 or entry["n"] == 0
        assert result.reached == all(e["n"] and e["share"] >= result.bound for e in result.entries.values())
    assert [row["reached"] for row in figures["goals"]] == [result.reached for result in found]
    names = figures["names"]
    assert names["photos"]["zh"]["n"] == 8
    assert set(names["not sure"]["at"]) == {"0.60", "0.70", "0.80", "0.90", "0.95"}


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_card_takes_any_figures(figures: dict[str, Any], language: Any) -> None:
    text = refresh("a\n<!-- figures -->\nold\n<!-- /figures -->\nz", figures, language)
    assert text.startswith("a\n<!-- figures -->\n|")
    assert "old" not in text
    assert refresh(text, figures, language) == text
    drawn = {**figures, "names": {}, "follow-up": {}, "cut-outs": {}}
    assert block(drawn, language).count("\n|") > 10


def test_a_batch_is_answered_as_ask_answers(model: VisualGLM) -> None:
    scenes = drawn_scenes(3)
    asked = questions(scenes)[::5]
    said = [one.answer for one in answer_all(model, asked, encode_scenes(model, scenes))]
    assert said == [
        model.ask(
            render_scene(scenes[a.image]), a.exchange.question, do_sample=False, max_new_tokens=MAX_ANSWER_TOKENS
        ).text
        for a in asked
    ]
    assert len(said) > 10 and all(said)


def test_scenes_are_asked_alike_in_both_languages() -> None:
    scenes = drawn_scenes(20)
    assert {len(scene.items) for scene in scenes} >= {1, 5}
    asked = questions(scenes)
    assert len({(a.image, a.exchange.language, a.exchange.question) for a in asked}) == len(asked)
    assert agreement([_truly(a) for a in asked])["share"] == 1
    assert agreement(asked)["share"] == 0


def _truly(asked: Any) -> Any:
    return type(asked)(asked.image, asked.exchange, asked.exchange.answer)


def test_pasted_scenes_show_only_the_album(album: Path) -> None:
    unseen = Album(album, ("held_out", "unseen_style"))
    shown = {entry.index for entry in unseen.entries}
    scenes = pasted_scenes(10, unseen)
    pasted = {item.image for scene in scenes for item in scene.items if item.image is not None}
    assert pasted
    assert pasted <= shown


def test_a_dialogue_goes_on_from_the_models_own_answers(model: VisualGLM) -> None:
    scenes = drawn_scenes(6)
    table, spoken = evaluate_dialogues(model, scenes, encode_scenes(model, scenes))
    assert all(len(s.asked.exchange.history) >= 1 for s in spoken)
    assert table["zh"]["n"] == sum(s.before_right for s in spoken if s.asked.exchange.language == "zh")


def test_the_page_shows_what_may_be_passed_on(album: Path, tmp_path: Path) -> None:
    folder = tmp_path / "made" / "anew"
    html_gallery.main(["--album", str(album), "-o", str(folder)])
    text = (folder / "page.html").read_text(encoding="utf-8")
    assert text.count("<figure>") == 8 + 8 + 7 + 10
    assert "heart-" not in text.split(html_gallery.TITLES["photos"])[1].split("<h2>")[0]
    assert "src=http" not in text
    assert Image.open(folder / "page.png").width > 1000
    assert (folder / "failures.png").stat().st_size < 150_000


def test_the_command_needs_no_album(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "made" / "anew" / "figures.json"
    __main__.main(["--scenes", "2", "-o", str(figures)])
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert found["command"].endswith(f"--scenes 2 -o {figures}")
    assert "names" not in found
    assert "colour of an object" in capsys.readouterr().out


def test_a_folder_in_the_place_of_the_figures_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(__main__, "load", None)
    with pytest.raises(SystemExit):
        __main__.main(["-o", str(tmp_path)])
    assert "is a folder" in capsys.readouterr().err
