import logging
from types import SimpleNamespace

import pytest
import torch

from equipoise.data.plan import Micro
from equipoise.train.measures import Measures
from equipoise.types import Pair

ALONE = SimpleNamespace(device=torch.device("cpu"), reduce=lambda tensor, reduction: tensor)


def given(chosen, rejected):
    return {
        "logps": Pair(torch.tensor(chosen), torch.tensor(rejected)),
        "ref_logps": Pair(torch.full((len(chosen),), -10.0), torch.full((len(chosen),), -10.0)),
    }


def test_means_are_over_rows_and_rewards_carry_beta():
    measures = Measures("pair", beta=0.5)
    measures.add(Micro((0, 1)), torch.zeros(2), given([-8.0, -11.0], [-12.0, -10.0]))
    measures.add(Micro((0, 1), weight=0.0), torch.zeros(2), given([5.0, 5.0], [5.0, 5.0]))
    found = measures.drain(ALONE)
    assert found["logps/chosen"] == pytest.approx(-9.5)
    assert found["displacement/chosen"] == pytest.approx(0.5)
    assert found["rewards/chosen"] == pytest.approx(0.25)
    assert found["rewards/margins"] == pytest.approx(0.5 * (4 - 1) / 2)
    assert found["rewards/accuracies"] == pytest.approx(0.5)
    assert measures.drain(ALONE) == {}


def test_unpaired_means_go_by_label():
    measures = Measures("unpaired", beta=1.0)
    values = {
        "logps": torch.tensor([1.0, 2.0, 4.0]),
        "ref_logps": torch.zeros(3),
        "label": torch.tensor([True, False, False]),
        "kl": torch.tensor(0.3),
    }
    measures.add(Micro((0, 1, 2)), torch.zeros(3), values)
    found = measures.drain(ALONE)
    assert found["displacement/desirable"] == pytest.approx(1.0)
    assert found["displacement/undesirable"] == pytest.approx(3.0)
    assert found["kl"] == pytest.approx(0.3)


def test_rows_with_non_finite_losses_are_named():
    measures = Measures("pair", beta=1.0)
    measures.add(Micro((4, 7)), torch.tensor([0.1, float("nan")]), given([0.0, 0.0], [0.0, 0.0]))
    measures.end_step(3)
    assert measures.non_finite_rows() == (3, [7])
    assert measures.non_finite_rows() is None


def test_displacement_is_said_once(caplog):
    measures = Measures("pair", beta=0.1)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            measures.add(Micro((0, 1)), torch.zeros(2), given([-30.0, -30.0], [-35.0, -35.0]))
            measures.drain(ALONE)
    assert [r.message.startswith("chosen answers are being displaced") for r in caplog.records] == [True]


def test_rewards_by_safety_are_means_over_the_rows_they_name():
    measures = Measures("pair", beta=0.5)
    values = given([-8.0, -11.0, -9.0], [-12.0, -10.0, -10.0])
    values["safe"] = Pair(torch.tensor([True, False, True]), torch.tensor([False, True, False]))
    measures.add(Micro((0, 1, 2)), torch.zeros(3), values)
    found = measures.drain(ALONE)
    assert found["rewards/margins/safe_unsafe"] == pytest.approx(0.5 * (4 + 1) / 2)
    assert found["rewards/chosen/safe_unsafe"] == pytest.approx(0.5 * (2 + 1) / 2)
    assert found["rewards/rejected/safe_unsafe"] == pytest.approx(0.5 * (-2 + 0) / 2)
    assert found["rewards/margins/unsafe_safe"] == pytest.approx(-0.5)
    assert "rewards/margins/safe_safe" not in found and "rewards/margins/unsafe_unsafe" not in found


def test_a_second_stream_is_measured_under_its_name():
    measures = Measures("pair", beta=0.5, name="buffer/")
    measures.add(Micro((0, 1)), torch.tensor([0.25, 0.75]), given([-8.0, -11.0], [-12.0, -10.0]))
    found = measures.drain(ALONE)
    assert found["buffer/loss"] == pytest.approx(0.5) and found["buffer/rewards/margins"] == pytest.approx(0.75)
    assert all(name.startswith("buffer/") for name in found)


def test_falling_chosen_answers_are_no_alarm_where_some_are_meant_to_fall(caplog):
    values = given([-30.0, -30.0], [-35.0, -35.0])
    values["safe"] = Pair(torch.tensor([False, True]), torch.tensor([True, True]))
    measures = Measures("pair", beta=0.1)
    with caplog.at_level(logging.WARNING):
        measures.add(Micro((0, 1)), torch.zeros(2), values)
        measures.drain(ALONE)
    assert not caplog.records
