"""Objectives by path: what is read off their signatures, what is refused, what the report says."""

import pytest
import torch

from equipoise.errors import SettingError
from equipoise.methods.align import use
from equipoise.objectives import OBJECTIVES, bind, dpo, objective
from equipoise.objectives.check import report, try_out

MINE = """
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from equipoise.objectives import Objective
from equipoise.types import Pair

def hinge(logps: Pair, ref_logps: Pair, severity, *, beta: float = 0.1, scale: float = 1) -> Tensor:
    return (scale + severity.chosen - beta * (logps.margin - ref_logps.margin)).relu()

def single(logps: Tensor, ref_logps: Tensor, label: Tensor) -> Tensor:
    return (logps - ref_logps) * (1 - 2.0 * label)

def likelihood(logps: "Tensor"): return -logps
def plain(logps, ref_logps): return -logps.margin
per_token = Objective("per_token", likelihood, "completion", divisor="tokens")

def mean(logps, ref_logps): return -(logps.margin - ref_logps.margin).mean()
def detached(logps, ref_logps): return -(logps.margin.detach() - ref_logps.margin)
def flat(logps, ref_logps): return 0 * logps.margin
def broken(logps, ref_logps): return (logps.margin - ref_logps.margin) / 0
def among(logps, ref_logps): return -(logps.margin - ref_logps.margin.mean())
def noisy(logps, ref_logps): return -logps.margin * torch.rand(())
def listed(logps, ref_logps): return logps.margin.tolist()
def whole(logps, ref_logps): return logps.margin.long()
def raises(logps, ref_logps):
    return logps.chosn
def half(logps, ref_logps): return -logps.margin * logps.margin.detach()
def naive(logps, ref_logps): return -torch.log(torch.sigmoid(logps.margin - ref_logps.margin))

def positional(logps, ref_logps, beta=0.1): return -logps.margin
def undefaulted(logps, *, beta): return -logps.margin
def worded(logps, *, kind="sum"): return -logps.margin
def anything(*columns): return columns
def nothing(ref_logps): return ref_logps.margin
def both(logps: Pair, label): return -logps.margin
def baseline(logps, kl): return -logps
number = 3
class Kind: pass
odd = Objective("odd", plain, "triple")
tokens = Objective("tokens", plain, "pair", divisor="tokens")
"""


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)


def given(name):
    return objective(f"mine.py:{name}")


def test_signatures_say_what_is_needed():
    assert [given(n).layout for n in ("hinge", "single", "likelihood", "plain")] == [
        "pair", "unpaired", "completion", "pair",
    ]  # fmt: skip
    assert given("hinge").columns == ("severity",) and given("single").columns == ("label",)
    assert (given("per_token").divisor, given("per_token").name) == ("tokens", "mine.py:per_token")
    assert bind(given("hinge"), {"beta": -2}) == {"beta": -2, "scale": 1}, "limits are those of built-in ones"


def test_what_is_used_carries_the_source_and_built_in_ones_carry_none():
    used = use("./mine.py:hinge", beta=0.5)
    assert used.canonical() == {
        "objective": "mine.py:hinge", "settings": {"beta": 0.5, "scale": 1.0}, "source": given("hinge").source,
    }  # fmt: skip
    assert use("dpo").canonical() == {"objective": "dpo", "settings": {"beta": 0.1, "label_smoothing": 0.0}}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("positional", "beta is positional, so it would be a column; put a \\* before it"),
        ("undefaulted", "the hyperparameter beta needs a number as default, got none"),
        ("worded", "the hyperparameter kind needs a number as default, got 'sum'"),
        ("anything", "name its parameters instead of taking \\*columns"),
        ("nothing", "takes no logps"),
        ("both", "takes pairs \\(logps: Pair\\) and label or kl"),
        ("baseline", "kl is a baseline of unpaired rows against ref_logps"),
        ("number", "must be a function or an Objective, got a int"),
        ("Kind", "must be a function or an Objective, got a class"),
        ("odd", "layout 'triple' is unknown"),
        ("tokens", "divisor tokens counts a single answer's"),
    ],
)
def test_signatures_that_cannot_be_fed_are_refused(name, sentence):
    with pytest.raises(SettingError, match=f"^objective 'mine.py:{name}'.*{sentence}"):
        given(name)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_built_in_ones_pass(name):
    assert name in report(OBJECTIVES[name], bind(OBJECTIVES[name], {}))


@pytest.mark.parametrize("name", ["hinge", "single", "likelihood", "plain", "per_token"])
def test_good_ones_pass(name):
    assert report(given(name), bind(given(name), {})).startswith(f"mine.py:{name}\n")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "mean",
            "returns shape \\(\\) for 6 rows, expected \\(6,\\), one loss each; leave sums and means to the trainer",
        ),
        ("detached", "has no gradient with respect to logps"),
        ("flat", "its gradient with respect to logps is 0 everywhere"),
        ("broken", "returns .*inf.*, expected finite losses"),
        ("among", "the loss of a row changes with the rows beside it"),
        ("noisy", "returns other losses when it is called again"),
        ("listed", "returns a list, expected a Tensor"),
        ("whole", "returns torch.int64, expected floating-point losses"),
        ("raises", "fails: AttributeError: 'Pair' object has no attribute 'chosn'.* \\(line 27\\)"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(name, sentence):
    with pytest.raises(SettingError, match=f"^objective 'mine.py:{name}'.*{sentence}"):
        try_out(given(name), {})


def test_a_stopped_gradient_fails_the_check_but_may_be_trained():
    try_out(given("half"), {})
    with pytest.raises(SettingError, match="gradient is not that of its value"):
        report(given("half"), {})


def test_the_report_in_figures():
    said = report(OBJECTIVES["dpo"], bind(OBJECTIVES["dpo"], {"beta": 0.3}))
    assert "beta = 0.3" in said and "0.6931 in every row" in said  # ln 2, whatever beta
    assert "chosen up in 6, down in 0; rejected up in 0, down in 6" in said
    assert "of one answer" in said and "of both answers" in said and "finite in float32" in said
    assert "25.0000 in every row" in report(OBJECTIVES["ipo"], {"beta": 0.1})  # (0 - 1 / (2 * .1))^2
    assert "of both answers" not in report(OBJECTIVES["ipo"], {"beta": 0.1}), "it divides by length"
    flags = report(OBJECTIVES["bfpo"], bind(OBJECTIVES["bfpo"], {}))
    assert "chosen_safe, rejected_safe" in flags
    assert "NOT finite in float32 at log-ratios of -500 and +500 nats" in report(given("naive"), {})
    assert torch.get_default_dtype() == torch.float32


def test_the_example_is_dpo_where_lengths_are_equal(monkeypatch):
    from pathlib import Path

    from equipoise.types import Pair

    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    found = objective("recipes/examples/my_objective.py:length_dpo")
    logps, ref = Pair(torch.tensor([-9.0]), torch.tensor([-8.0])), Pair(torch.tensor([-8.0]), torch.tensor([-9.0]))
    same, longer = (Pair(torch.tensor([n]), torch.tensor([10.0])) for n in (10.0, 30.0))
    assert found.function(logps, ref, same, beta=0.1) == dpo(logps, ref, beta=0.1)
    # .1 * (-1 - 1) + .01 * (30 - 10) = 0: -log sigma(0) = ln 2
    assert found.function(logps, ref, longer, beta=0.1, alpha=0.01).item() == pytest.approx(0.693147, abs=1e-5)
