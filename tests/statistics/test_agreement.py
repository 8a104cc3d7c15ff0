"""Kappa and alpha: numbers by hand, then reference packages and real raters."""

from __future__ import annotations

import csv
import json

import krippendorff
import numpy as np
import pytest
from statsmodels.stats.inter_rater import aggregate_raters, cohens_kappa
from statsmodels.stats.inter_rater import fleiss_kappa as reference_fleiss

from equipoise.errors import DataError, SettingError
from equipoise.statistics import cohen_kappa, fleiss_kappa, krippendorff_alpha, percent_agreement

TABLE = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
# Cohen's kappa between the two annotators of each model's answers, three categories without an order.
XSTEST = {
    "gpt4": 0.968048,
    "llama2new": 0.911822,
    "llama2orig": 0.909438,
    "mistralguard": 0.911390,
    "mistralinstruct": 0.895689,
}


def test_cohen_by_hand():
    found = cohen_kappa(*zip(*TABLE, strict=True))
    assert found.mean == pytest.approx(0.4)  # (.7 - .5) / (1 - .5)
    assert found.low < 0.4 < found.high
    assert (found.n, found.n_prompts, found.kind, found.undefined) == (50, 50, "agreement", "")


def test_weighted_cohen_by_hand():
    first, second = [0, 0, 1, 2], [0, 1, 1, 2]
    assert cohen_kappa(first, second).mean == pytest.approx((0.75 - 0.3125) / (1 - 0.3125))
    assert cohen_kappa(first, second, weights="linear").mean == pytest.approx(1 - 0.125 / 0.4375)
    assert cohen_kappa(first, second, weights="quadratic").mean == pytest.approx(1 - 0.0625 / 0.3125)
    named = cohen_kappa(list("aabc"), list("abbc"), weights="linear", order=["a", "b", "c"])
    assert named.mean == pytest.approx(1 - 0.125 / 0.4375)


def test_fleiss_by_hand():
    # Pairs agree in 1, 1/3 and 1; the categories have shares 5/9 and 4/9.
    found = fleiss_kappa(["aaa", "aab", "bbb"])
    assert found.mean == pytest.approx((7 / 9 - 41 / 81) / (40 / 81)) == pytest.approx(0.55)


def test_percent_agreement_by_hand():
    assert percent_agreement(["aaa", "aab"]).mean == pytest.approx(2 / 3)
    assert percent_agreement([["a", "a", None], ["a", "b", None], ["a", None, None]]).mean == 0.5


def test_alpha_by_hand():
    # Seven paired values, one pair apart: 1 - (2 / 7) / (24 / 42); the lone rating of the last item counts nowhere.
    ratings = [[0, 0, None], [0, 1, None], [1, 1, 1], [0, None, float("nan")]]
    for scale in ("nominal", "ordinal", "interval"):
        found = krippendorff_alpha(ratings, scale=scale)
        assert found.mean == pytest.approx(0.5)
        assert found.n == 3
    ranks = [[1, 1], [2, 2], [1, 5], [5, 5]]
    assert krippendorff_alpha(ranks, scale="ordinal").mean == pytest.approx(1 - 6.25 / (600 / 56))
    assert krippendorff_alpha(ranks, scale="interval").mean == pytest.approx(1 - 4 / (408 / 56))


def test_arrays_of_numpy_are_read_as_their_numbers():
    rows = np.array([[1, 1], [2, 2], [1, 5], [5, 5]])
    for scale in ("nominal", "ordinal", "interval"):
        assert krippendorff_alpha(rows, scale=scale) == krippendorff_alpha(rows.tolist(), scale=scale)
    assert krippendorff_alpha(np.array([[0, 0], [1, 1], [0, np.nan]], dtype=np.float32)).n == 2


def test_ranks_of_named_categories_need_their_order():
    rows = [["low", "low"], ["middle", "middle"], ["low", "high"], ["high", "high"]]
    found = krippendorff_alpha(rows, scale="ordinal", order=["low", "middle", "high"])
    assert found.mean == pytest.approx(1 - 6.25 / (600 / 56))
    with pytest.raises(SettingError, match="give order="):
        krippendorff_alpha(rows, scale="ordinal")
    with pytest.raises(DataError, match="rating 'high' is not in order"):
        krippendorff_alpha(rows, scale="ordinal", order=["low", "middle"])


@pytest.mark.parametrize(
    "found",
    [
        cohen_kappa("aaa", "aaa"),
        fleiss_kappa(["aa", "aa"]),
        krippendorff_alpha(["aa", "aa"]),
        krippendorff_alpha([[0.1, 0.1], [0.1, 0.1]], scale="interval"),
    ],
)
def test_a_single_category_leaves_the_coefficient_undefined(found):
    assert (found.mean, found.low, found.high) == (None, None, None)
    assert "all ratings fall into one category" in found.undefined


def test_full_agreement_is_not_certainty():
    found = cohen_kappa("ab" * 10, "ab" * 10)
    assert (found.mean, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(1 - (1 - 0.025 ** (1 / 20)) / 0.5)  # 0 of 20 differ, half would by chance
    same = percent_agreement(["aa"] * 10)
    assert (same.mean, same.low, same.high) == pytest.approx((1.0, 1 - 0.3085, 1.0), abs=5e-5)


def test_items_that_share_a_prompt_widen_the_interval():
    first, second = zip(*[pair for pair in TABLE for _ in range(4)], strict=True)
    apart = cohen_kappa(first, second)
    together = cohen_kappa(first, second, prompts=[i // 4 for i in range(200)])
    once = cohen_kappa(*zip(*TABLE, strict=True))
    assert together.mean == pytest.approx(apart.mean)
    assert together.high - together.low > 1.5 * (apart.high - apart.low)
    assert (together.low, together.high) == pytest.approx((once.low, once.high))
    assert (together.n, together.n_prompts) == (200, 50)
    assert cohen_kappa("ab", "ab", prompts=["p", "p"]).low is None


def test_the_interval_covers():
    generator = np.random.default_rng(0)
    covered = 0
    for repetition in range(300):
        truth = generator.random(150) < 0.5
        first, second = truth ^ (generator.random(150) < 0.1), truth ^ (generator.random(150) < 0.1)
        found = cohen_kappa(first.tolist(), second.tolist(), seed=repetition)
        covered += found.low <= 2 * 0.82 - 1 <= found.high  # both right or both wrong: .81 + .01
    assert 0.91 <= covered / 300 <= 0.99


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: fleiss_kappa(["aa", "aaa"]), DataError, "got 2 to 3 .krippendorff_alpha allows gaps"),
        (lambda: cohen_kappa("ab", "a"), DataError, "got 2 and 1 ratings"),
        (lambda: cohen_kappa(["a", None], ["a", "b"]), DataError, "krippendorff_alpha allows gaps"),
        (lambda: cohen_kappa("ab", "ab", weights="cubic"), SettingError, "linear or quadratic"),
        (lambda: krippendorff_alpha([["a", None]]), DataError, "at least one item with two ratings"),
        (lambda: krippendorff_alpha([["a", "b"]], scale="interval"), DataError, "needs numbers, got 'a'"),
        (lambda: krippendorff_alpha([[1, 2]], scale="ordinl"), SettingError, "did you mean 'ordinal'"),
        (lambda: percent_agreement(["aa"], prompts=["p", "q"]), DataError, "1 items and 2 prompts"),
    ],
)
def test_bad_ratings_are_refused_in_a_sentence(call, error, words: str):
    with pytest.raises(error, match=words):
        call()


def test_random_ratings_agree_with_the_reference_packages():
    generator = np.random.default_rng(2)
    truth = generator.integers(4, size=60)
    ratings = np.where(generator.random((60, 5)) < 0.6, truth[:, None], generator.integers(4, size=(60, 5)))
    assert fleiss_kappa(ratings.tolist()).mean == pytest.approx(reference_fleiss(aggregate_raters(ratings)[0]))
    table = np.zeros((4, 4))
    np.add.at(table, (ratings[:, 0], ratings[:, 1]), 1)
    for ours, theirs in ((None, None), ("linear", "linear"), ("quadratic", "quadratic")):
        expected = cohens_kappa(table, wt=theirs).kappa
        assert cohen_kappa(ratings[:, 0].tolist(), ratings[:, 1].tolist(), weights=ours).mean == pytest.approx(expected)
    gaps = np.where(generator.random((60, 5)) < 0.3, np.nan, ratings)
    for scale in ("nominal", "ordinal", "interval"):
        expected = krippendorff.alpha(gaps.T, level_of_measurement=scale)
        assert krippendorff_alpha(gaps.tolist(), scale=scale).mean == pytest.approx(expected)


def test_pandalm_three_annotators(shared_data):
    rows = json.loads((shared_data / "pandalm_test" / "testset-v1.json").read_text(encoding="utf-8"))
    # Six answers are JSON booleans, but every annotation is there: all 999 items count.
    ratings = [[row[f"annotator{i}"] for i in (1, 2, 3)] for row in rows]
    found = fleiss_kappa(ratings)
    assert (found.n, round(found.mean, 3)) == (999, 0.864)
    assert found.mean == pytest.approx(reference_fleiss(aggregate_raters(np.array(ratings))[0]))
    assert (found.low, found.high) == pytest.approx((0.841, 0.887), abs=0.003)


@pytest.mark.parametrize("model", XSTEST)
def test_xstest_two_annotators(model: str, shared_data):
    path = shared_data / "xstest" / f"xstest_v2_completions_{model}.csv"
    with path.open(newline="", encoding="utf-8") as file:
        pairs = [(row["annotation_1"], row["annotation_2"]) for row in csv.DictReader(file)]
    found = cohen_kappa(*zip(*pairs, strict=True))
    assert found.n == 181
    assert found.mean == pytest.approx(XSTEST[model], abs=1e-6)
    names = sorted({name for pair in pairs for name in pair})
    table = np.zeros((len(names), len(names)))
    for a, b in pairs:
        table[names.index(a), names.index(b)] += 1
    assert found.mean == pytest.approx(cohens_kappa(table).kappa)


def test_crowd_workers_with_gaps(shared_data):
    with open(shared_data / "llmfao_crowd" / "crowd-comparisons.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    ranks = {"left": 0, "tie": 1, "right": 2}
    items = {name: i for i, name in enumerate(dict.fromkeys(row["id"] for row in rows))}
    workers = {name: i for i, name in enumerate(dict.fromkeys(row["worker"] for row in rows))}
    ratings = np.full((len(items), len(workers)), np.nan)
    prompts = [""] * len(items)
    for row in rows:
        ratings[items[row["id"]], workers[row["worker"]]] = ranks[row["winner"]]
        prompts[items[row["id"]]] = row["prompt"]
    for scale, expected in (("nominal", 0.290595), ("ordinal", 0.287553), ("interval", 0.287761)):
        found = krippendorff_alpha(ratings.tolist(), scale=scale)
        assert found.mean == pytest.approx(expected, abs=1e-6)
        assert found.mean == pytest.approx(krippendorff.alpha(ratings.T, level_of_measurement=scale))
        assert found.n == 2124  # 15 of 2139 pairs have one verdict
    clustered = krippendorff_alpha(ratings.tolist(), prompts=prompts)
    assert clustered.n_prompts == 13
    assert clustered.high - clustered.low > 0.1
