"""results.csv."""

from __future__ import annotations

import csv
import io

from equipoise.evaluate.flat import flat


def test_a_row_per_result_and_three_columns_per_metric(results):
    rows = list(csv.DictReader(io.StringIO(flat(results))))
    assert len(rows) == len(results)
    for row, one in zip(rows, results, strict=True):
        assert row["label"] == one["label"] and row["seeds"] == "0" and row["model"] == one["model"]
        for name, metric in one["metrics"].items():
            assert [float(row[name + end]) for end in ("", " low", " high")] == [
                metric["mean"], metric["low"], metric["high"],
            ]  # fmt: skip
    assert [row["chosen"] for row in rows].count("true") == 1
    assert rows[6]["setting.q"] == "0.75" and rows[0]["setting.q"] == "" and rows[9]["setting.weights"] == "[0.5, 0.5]"


def test_what_is_not_known_is_empty_and_no_cell_is_a_formula(results):
    results[0]["label"] = "=1+1"
    results[1]["metrics"]["kl"].update(mean=None, low=None, high=None)
    del results[2]["metrics"]["kl"]
    results[3]["seeds"] = [0, 1]
    rows = list(csv.DictReader(io.StringIO(flat(results))))
    assert rows[0]["label"] == "'=1+1" and rows[3]["seeds"] == "0 1"
    assert rows[1]["kl"] == rows[1]["kl low"] == rows[2]["kl"] == "" != rows[3]["kl"]
    assert rows[0]["system_prompt"] == ""
