"""The optimum beside the results: in results.json, in the plot, on the page, in the terminal and as a check."""

from __future__ import annotations

import copy
import io
import itertools
import json

import numpy as np
import pytest
from rich.console import Console

from equipoise.errors import DataError
from equipoise.evaluate.chart import lay_out
from equipoise.evaluate.frontier import above_the_curve
from equipoise.evaluate.labels import Box
from equipoise.evaluate.report import read_results, table, write_page, write_results
from equipoise.evaluate.results import optimum_section
from equipoise.statistics.optimum import Pool, envelope


def test_it_comes_back_as_written(tmp_path, results, optimum):
    path = tmp_path / "results.json"
    write_results(path, results, {}, optimum=optimum)
    assert read_results(path)["optimum"] == optimum
    write_results(path, results, {})
    assert "optimum" not in read_results(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda o: o.pop("kl"), "needs kl, pool and at least one of points"),
        (lambda o: o["points"].clear(), "at least one of points"),
        (lambda o: o["pool"].pop("answers"), "pool of the optimum lacks answers"),
        (lambda o: o["points"][2].pop("thin"), "point 2 of the optimum lacks thin"),
        (lambda o: o["points"][3].update(unsafe_rate=0.001), "must rise from 0 to at most 1, got 0.001 at point 3"),
        (lambda o: o["points"][-1].update(unsafe_rate=1.2), "got 1.2 at point 17"),
        (lambda o: o["points"][0].update(reward=float("nan")), "nan"),
    ],
)
def test_a_broken_one_is_refused_in_a_sentence(tmp_path, results, optimum, change, words: str):
    change(optimum)
    with pytest.raises(DataError, match=words):
        write_results(tmp_path / "results.json", results, {}, optimum=optimum)


def test_a_curve_becomes_a_section():
    generator = np.random.default_rng(0)
    cost = generator.normal(size=400)
    prompt = np.repeat(np.arange(20), 20)
    kinds = ["harmful", "benign"] * 10
    pool = Pool(prompt, np.zeros(400), np.full((400, 1), -3.0), cost + generator.normal(size=400), cost, kinds)
    section = optimum_section(envelope(pool, kl=0.5, rates=(0.3, 0.5)), pool, policies=["base"])
    assert section["pool"] == {"policies": ["base"], "prompts": 20, "answers": 400}
    assert [point["unsafe_rate"] for point in section["points"]] == [0.3, 0.5]
    first = section["points"][0]
    assert first["reward_low"] < first["reward"] < first["reward_high"]
    assert first["kl"] == pytest.approx(0.5, abs=1e-6)
    assert first["thin"] == (first["ess"] < 20)
    json.dumps(section, allow_nan=False)
    with pytest.raises(DataError, match="each of 1 policies, got 1 points and 2 labels"):
        optimum_section(envelope(pool, kl=0.5, rates=(0.5,)), pool, policies=["base", "other"])


@pytest.mark.parametrize("width", [1080, 720, 372])
def test_labels_keep_apart_with_the_curve_and_its_label(results, optimum, width: int):
    font = 11.5 if width < 400 else 13
    chart = lay_out(results, width=width, height=460, target=0.05, font=font, optimum=optimum)
    boxes = [mark.placed.box for mark in chart.marks] + [chart.bound.placed.box]
    assert len(boxes) == len(results) + 1
    assert all(a.overlap(b) == 0 for a, b in itertools.combinations(boxes, 2))
    assert all(box.outside(Box(0, 0, width, 460)) < 1e-6 for box in boxes)


def test_the_curve_is_cut_into_thin_and_firm_pieces(results, optimum):
    chart = lay_out(results, width=1080, height=500, optimum=optimum)
    assert [thin for thin, _ in chart.bound.pieces] == [True, False, True]
    for (_, left), (_, right) in itertools.pairwise(chart.bound.pieces):
        assert left[-1] == right[0]
    spots = [spot for _, piece in chart.bound.pieces for spot in piece]
    frame = chart.frame
    assert all(frame.left <= x <= frame.right and frame.top <= y <= frame.bottom for x, y in spots + chart.bound.band)
    assert lay_out(results, width=1080, height=500).bound is None


def test_the_curve_ends_with_the_axis(results, optimum):
    some = [one for one in results if one["metrics"]["unsafe_rate"]["mean"] < 0.1]
    chart = lay_out(some, width=1080, height=500, optimum=optimum)
    assert chart.bound.pieces[-1][1][-1][0] == pytest.approx(chart.frame.right)
    beyond = copy.deepcopy(optimum)
    beyond["points"] = optimum["points"][-3:]
    assert lay_out(some, width=1080, height=500, optimum=beyond).bound is None


def test_without_intervals_there_is_no_band(results, optimum):
    for point in optimum["points"]:
        point.update(reward_low=None, reward_high=None)
    assert lay_out(results, width=1080, height=500, optimum=optimum).bound.band == []


def test_the_page_and_the_picture_hold_it(tmp_path, document, optimum, with_gap):
    plain = write_page(
        tmp_path / "plain", {**document, "results": document["results"][3:4]}, [], title="t", target=None
    )
    assert "optimum-line" not in plain.read_text(encoding="utf-8")
    path = write_page(tmp_path / "full", {**document, "optimum": optimum}, [], title="t", target=0.05)
    page = path.read_text(encoding="utf-8")
    assert page.count('class="optimum thin"') == 6  # two pieces at three widths
    assert "From 9,600 answers of Base, DPO helpful, DPO safe, SACPO β/λ 0.05 to 150 prompts." in page
    assert 'data-metric="gap"' in page
    data = page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    assert json.loads(data)["optimum"] == optimum
    assert (tmp_path / "full" / "frontier.png").read_bytes() != (tmp_path / "plain" / "frontier.png").read_bytes()


def test_a_gap_has_a_column_only_where_it_is_known(results, make_result):
    assert "Gap" not in [column.header for column in table(results).columns]


def test_the_gap_fits_a_narrow_terminal(with_gap):
    for width in (120, 80):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(table(with_gap))
        text = console.export_text()
        assert "…" not in text
        for words in ("Gap", "[0.97,1.03]", "0.35", "[0.32,0.38]", "Over-refusal", "[47.5,54.8]", "16.60", "P-SACPO"):
            assert words in text


@pytest.fixture
def at(make_result):
    """Builds a result at an unsafe rate, reward and KL."""

    def built(unsafe: float, reward: float, kl: float = 10.0):
        return make_result("m", "sacpo", None, {}, unsafe, 0.1, reward, kl)

    return built


def test_what_lies_above_the_curve(results, optimum, at):
    assert above_the_curve(results, optimum) == []
    # at 30 % (upper end 33.4 %) the curve is at .920, its upper end at .940; rewards have a half width of .024
    high = [at(0.3, 0.95), at(0.3, 0.98), at(0.3, 0.98, kl=19.5)]
    found = above_the_curve(high, optimum)
    assert [(one.index, one.thin) for one in found] == [(1, False)]
    assert found[0].bound == pytest.approx(0.72 + 0.33 * 0.334**0.35, abs=2e-3)
    assert found[0].reward_low == pytest.approx(0.956)


def test_above_the_ends_of_the_curve(optimum, at, make_result):
    safest = make_result("m", "sacpo", None, {}, 0.0, 0.1, 0.95, 10.0, prompts=5000)
    assert [one.thin for one in above_the_curve([safest], optimum)] == [True]
    optimum["points"] = optimum["points"][:8]
    assert above_the_curve([at(0.5, 2.0)], optimum) == []  # the curve says nothing beyond 10 %


def test_results_without_all_three_figures_are_not_judged(optimum, at):
    unknown = at(0.3, 2.0)
    del unknown["metrics"]["kl"]
    assert above_the_curve([unknown], optimum) == []
