import math

import pytest
import torch

from equipoise.errors import SettingError
from equipoise.objectives import OBJECTIVES, bind, dpo, ipo, kto, objective, sft
from equipoise.types import Pair


def pair(chosen, rejected):
    return Pair(torch.tensor(chosen, dtype=torch.float64), torch.tensor(rejected, dtype=torch.float64))


ONE = pair([-10.0], [-12.0])
REF = pair([-11.0], [-11.5])


def test_dpo_golden_value():
    # METHODS G2: margin (-10 + 11) - (-12 + 11.5) = 1.5, times beta .1
    assert dpo(ONE, REF, beta=0.1).item() == pytest.approx(0.620957, abs=1e-6)


def test_dpo_of_equal_models_is_log_two_at_any_beta():
    for beta in (0.01, 0.1, 1.0):
        assert dpo(ONE, ONE, beta=beta).item() == pytest.approx(math.log(2), abs=1e-12)


def test_dpo_label_smoothing_mixes_both_orders():
    swapped, swapped_ref = Pair(ONE.rejected, ONE.chosen), Pair(REF.rejected, REF.chosen)
    expected = 0.8 * dpo(ONE, REF, beta=0.1) + 0.2 * dpo(swapped, swapped_ref, beta=0.1)
    assert dpo(ONE, REF, beta=0.1, label_smoothing=0.2).item() == pytest.approx(expected.item(), abs=1e-12)


def test_swapping_a_pair_negates_the_margin():
    up = dpo(ONE, REF, beta=0.1).item()
    down = dpo(Pair(ONE.rejected, ONE.chosen), Pair(REF.rejected, REF.chosen), beta=0.1).item()
    assert down - up == pytest.approx(0.15, abs=1e-12)  # -log s(-m) + log s(m) = m


def test_ipo_uses_averages_per_token():
    # log-ratios 1 over 5 tokens and -.5 over 2 tokens: .2 + .25 - 1/(2 * .5)
    lengths = pair([5.0], [2.0])
    assert ipo(ONE, REF, lengths, beta=0.5).item() == pytest.approx((0.45 - 1.0) ** 2, abs=1e-12)


def test_ipo_of_equal_models():
    assert ipo(ONE, ONE, pair([5.0], [2.0]), beta=0.1).item() == pytest.approx(25.0, abs=1e-12)


def test_kto_golden_values():
    # METHODS G11: beta .1, log-ratio 1.5, KL .2
    logps, ref = torch.tensor([1.5, 1.5], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    losses = kto(logps, ref, torch.tensor([True, False]), torch.tensor(0.2), beta=0.1)
    assert losses.tolist() == pytest.approx([0.467546, 0.532454], abs=1e-6)


def test_kto_of_equal_models_is_half_the_weight():
    zero = torch.zeros(2)
    losses = kto(
        zero, zero, torch.tensor([True, False]), torch.tensor(0.0), desirable_weight=2.0, undesirable_weight=0.5
    )
    assert losses.tolist() == pytest.approx([1.0, 0.25])


def test_kto_works_at_batch_size_one_and_one_sided():
    zero = torch.zeros(1)
    assert kto(zero, zero, torch.tensor([False]), torch.tensor(0.0)).shape == (1,)


def test_sft_is_the_summed_negative_log_likelihood():
    assert sft(torch.tensor([-3.0, -4.5])).tolist() == [3.0, 4.5]


@pytest.mark.parametrize("name", ["dpo", "ipo", "kto", "sft"])
def test_shapes_and_gradients(name):
    chosen = OBJECTIVES[name]
    generator = torch.Generator().manual_seed(0)

    def column(shift=0.0):
        return (torch.randn(3, generator=generator, dtype=torch.float64) + shift).requires_grad_()

    label, kl = torch.tensor([True, False, True]), torch.tensor(0.1, dtype=torch.float64)
    if chosen.layout == "pair":
        lengths = Pair(torch.tensor([3.0, 4, 5]).double(), torch.tensor([2.0, 2, 6]).double())

        def run(a, b, c, d):
            extra = [lengths] if "lengths" in chosen.inputs else []
            return chosen.function(Pair(a, b), Pair(c, d), *extra, beta=0.3)

        inputs = tuple(column() for _ in range(4))
    elif name == "kto":
        run, inputs = (lambda a, b: kto(a, b, label, kl, beta=0.3)), (column(), column())
    else:
        run, inputs = sft, (column(),)
    assert run(*inputs).shape == (3,)
    assert torch.autograd.gradcheck(run, inputs)


def test_signatures_are_the_configuration():
    assert objective("ipo").inputs == ("logps", "ref_logps", "lengths")
    assert objective("kto").columns == ("label",)
    assert objective("kto").needs_mismatched and not objective("dpo").needs_mismatched
    assert objective("sft").divisor == "tokens" and not objective("sft").needs_reference
    assert bind(objective("dpo"), {"beta": 0.5}) == {"beta": 0.5, "label_smoothing": 0.0}


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("dpoo", {}, "did you mean 'dpo'"),
        ("dpo", {"bta": 1}, "did you mean 'beta'"),
        ("dpo", {"beta": 0}, "beta must be positive"),
        ("dpo", {"beta": "high"}, "must be a number"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name, settings, words):
    with pytest.raises(SettingError, match=words):
        bind(objective(name), settings)
