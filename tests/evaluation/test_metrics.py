"""Metrics: equal to the libraries that define them; intervals and tests that behave as statistics says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu

from visualglm.evaluation.metrics import Metric, compare, estimate
from visualglm.evaluation.tasks.caption import CaptionTask, caption_statistics, tokenize
from visualglm.evaluation.tasks.choice import chosen_option
from visualglm.evaluation.tasks.pope import PopeTask
from visualglm.evaluation.vqa_answers import mentions, normalize, vqa_accuracy
from visualglm.evaluation.yes_no import parse_label, yes_or_no

RIGHT = Metric("right", "right")


@dataclass(frozen=True)
class Counted:
    id: str
    group: str
    statistics: dict[str, Any] = field(default_factory=dict)


def hits(values: list[float], per_group: int = 1) -> list[Counted]:
    return [Counted(str(n), str(n // per_group), {"right": (value, 1.0)}) for n, value in enumerate(values)]


def test_bleu_from_sums_is_the_librarys_corpus_bleu() -> None:
    said = ["a red cup on a table", "two dogs", "一 只 黑 狗", ""]
    wanted = [
        ["a red cup is on the table", "a cup on a table"],
        ["two dogs run", "dogs"],
        ["一 只 狗", "黑 狗"],
        ["a b"],
    ]
    statistics = caption_statistics(said, wanted)
    given, references = {n: [text] for n, text in enumerate(said)}, dict(enumerate(wanted))
    expected, _ = Bleu(4).compute_score(references, given, verbose=0)
    sums = np.sum([one["bleu"] for one in statistics], axis=0)
    by_name = {metric.name: metric for metric in CaptionTask.metrics}
    assert by_name["BLEU-1"].compute(sums) == pytest.approx(expected[0], abs=1e-12)
    assert by_name["BLEU-4"].compute(sums) == pytest.approx(expected[3], abs=1e-12)


def test_a_perfect_caption_beats_a_wrong_one() -> None:
    wanted = [["a red cup"], ["two black dogs"], ["一 只 猫"]]
    perfect = caption_statistics(["a red cup", "two black dogs", "一 只 猫"], wanted)
    assert min(one["cider"][0] for one in perfect) > 1 and all(one["rouge"][0] == 1 for one in perfect)
    assert all(one["cider"][0] == 0 for one in caption_statistics(["x", "", "y z"], wanted))


def test_words_are_letters_digits_and_chinese_characters() -> None:
    assert tokenize("A man's hot-dog, 3.5!") == "a man's hot dog 3 5"
    assert tokenize("一只 Red 狗。") == "一 只 red 狗"


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(40):
        found = estimate(RIGHT, hits((generator.random(120) < 0.7).astype(float).tolist()))
        assert found is not None
        covered += found.low <= 0.7 <= found.high
    assert covered >= 34


def test_rows_of_one_image_are_drawn_together() -> None:
    values = [float(n // 10 % 2) for n in range(400)]  # ten equal answers for each image
    alone, together = estimate(RIGHT, hits(values)), estimate(RIGHT, hits(values, per_group=10))
    assert alone is not None and together is not None and together.groups == 40
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_all_right_is_not_certain_and_nothing_is_undefined() -> None:
    found = estimate(RIGHT, hits([1.0] * 20))
    assert found is not None and found.value == found.high == 1 and found.low < 0.9
    assert estimate(RIGHT, []) is None
    precision = next(metric for metric in PopeTask.metrics if metric.name == "precision")
    cells = [(1.0, 0, 0, 0, 0, 0)] * 3 + [(0, 0, 0, 1.0, 0, 0)] * 97
    rows = [Counted(str(n), str(n), {"confusion": one}) for n, one in enumerate(cells)]
    three = estimate(precision, rows)  # only three answers are yes
    assert three is not None and three.value == 1 and three.low < 0.5
    undefined = estimate(RIGHT, [Counted("0", "0", {"right": (0.0, 0.0)})])
    assert undefined is not None and undefined.to_json()["value"] is None


def test_a_comparison_finds_a_difference_and_none_where_there_is_none() -> None:
    generator = np.random.default_rng(2)
    a = (generator.random(300) < 0.6).astype(float)
    better = np.maximum(a, (generator.random(300) < 0.3).astype(float))
    found = compare(RIGHT, hits(a.tolist()), hits(better.tolist()))
    assert found is not None and found.low > 0 and found.only_a == 0
    assert found.p_mcnemar is not None and found.p_mcnemar < 1e-6
    assert found.p_bootstrap is not None and found.p_bootstrap < 0.01
    same = compare(RIGHT, hits(a.tolist()), hits(a.tolist()))
    assert same is not None and (same.value, same.p_mcnemar, same.p_bootstrap) == (0, 1, 1)


def test_mcnemars_exact_p_value() -> None:
    a, b = [1.0] * 2 + [0.0] * 8, [0.0] * 2 + [1.0] * 8
    found = compare(RIGHT, hits(a), hits(b))
    assert found is not None and found.p_mcnemar == pytest.approx(0.109375)  # 2 of 10 discordant


@pytest.mark.parametrize(
    "answer, normal",
    [
        ("The Red Cup.", "red cup"),
        ("two", "2"),
        ("none", "0"),
        ("dont know", "don't know"),
        ("1,000", "1000"),
        ("2.5", "2.5"),
        ("yes, it is!", "yes it is"),
        ("black/white", "black white"),
        ("an apple\n", "apple"),
        ("whats up", "what's up"),
        ("红色。", "红色"),
    ],
)
def test_vqas_normalisation(answer: str, normal: str) -> None:
    assert normalize(answer) == normal


@pytest.mark.parametrize("matches, accuracy", [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_accuracy_leaves_each_annotator_out(matches: int, accuracy: float) -> None:
    assert vqa_accuracy("red", ["red"] * matches + ["blue"] * (10 - matches)) == pytest.approx(accuracy)


def test_a_mention_is_a_whole_word() -> None:
    assert mentions("it is red", "red") and not mentions("it is tired", "red")
    assert mentions("它是红色的", "红色") and not mentions("anything", "")


@pytest.mark.parametrize(
    "answer, said",
    [
        ("Yes, there is a cup.", "yes"),
        ("No.", "no"),
        ("没有，图中没有杯子。", "no"),
        ("有，图中有一个杯子。", "yes"),
        ("There is no dog. Yes!", "no"),
        ("The image doesn't show a dog.", "no"),
        ("There is a dog on the left.", "yes"),
        ("图中没有看到狗", "no"),
        ("图里有一只狗", "yes"),
        ("不是", "no"),
        ("notably red", None),
        ("A cup.", None),
        ("", None),
    ],
)
def test_yes_or_no(answer: str, said: str | None) -> None:
    assert yes_or_no(answer) == said


def test_labels() -> None:
    assert [parse_label(text) for text in ("Yes", "no.", "是", "没有", "perhaps")] == ["yes", "no", "yes", "no", None]


@pytest.mark.parametrize(
    "answer, turn, chosen",
    [
        ("B", 0, 1),
        ("(B) a dog", 0, 1),
        ("B", 1, 2),
        ("The answer is C.", 0, 2),
        ("答案是A", 2, 2),
        ("A dog runs.", 0, 1),
        ("It is a hot dog", 0, 2),
        ("a cup or a dog", 0, None),
        ("D", 0, None),
        ("", 0, None),
    ],
)
def test_the_option_that_an_answer_chooses(answer: str, turn: int, chosen: int | None) -> None:
    options = ["a cup", "dog", "hot dog"]
    assert chosen_option(answer, [*options[turn:], *options[:turn]], turn) == chosen
