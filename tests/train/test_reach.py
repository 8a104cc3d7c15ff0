import numpy as np
import pytest

import pico
from equipoise.data.collate import Layout
from equipoise.objectives import bind, objective
from equipoise.train.offline import Rows
from equipoise.train.reach import out_of_reach

FLAGS = {"chosen_safe": np.array([True, True, False, False]), "rejected_safe": np.array([True, False, True, False])}


def rows(folder, reference):
    table = pico.table(folder, pico.pair_rows(4), FLAGS)
    return Rows(table, np.asarray(reference, dtype=np.float32), Layout(True))


def said(found, name="bfpo", **settings):
    return out_of_reach(objective(name), bind(objective(name), settings), found)


def test_targets_within_the_answers_nats_are_not_mentioned(tmp_path):
    # The answers that are to rise: chosen, chosen, rejected, rejected. The others' nats do not matter.
    found = rows(tmp_path, [[-51, -1], [-101, -1], [-1, -101], [-1, -51]])
    assert said(found) is None
    assert said(found, tau=0.0095) is not None, "50 / 0.95 is more than 51 nats"


def test_targets_out_of_reach_are_named_with_a_tau_that_is_not(tmp_path):
    found = rows(tmp_path, [[-20, -300], [-120, -300], [-300, -20], [-300, -60]])
    message = said(found)
    assert "tau 0.01 asks for margins of 50, 100 nats" in message
    assert "hold 55 nats on average" in message and "in 50% of the pairs" in message
    assert "a tau of 0.045 or more" in message  # .5 / (.2 * 55)


def test_only_objectives_with_a_target_and_a_reference_are_looked_at(tmp_path):
    found = rows(tmp_path, [[-1, -1]] * 4)
    assert said(found, "dpo") is None
    assert said(Rows(found.table, None, Layout(True))) is None


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_a_label_of_zero_asks_for_nothing(tmp_path, alpha):
    found = rows(tmp_path, [[-200, -200], [-200, -200], [-200, -200], [-0.5, -0.5]])
    assert (said(found, alpha=alpha) is None) == (alpha == 0.0)
