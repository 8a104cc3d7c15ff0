"""Intervals, wins, ratings, agreement and verdicts: pure numpy and scipy, no files and no torch."""

from equipoise.statistics.agreement import (
    Agreement,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    percent_agreement,
)
from equipoise.statistics.claims import Claim, holm, paired_p
from equipoise.statistics.grading import Corrected, Grader, corrected_difference, corrected_rate, decide_corrected
from equipoise.statistics.intervals import (
    Estimate,
    Verdict,
    clopper_pearson,
    decide,
    design_effect,
    difference,
    lower_bound,
    mean,
    rate,
    upper_bound,
)
from equipoise.statistics.paired import apart, score_bounds
from equipoise.statistics.planning import chance_met, prompts_needed
from equipoise.statistics.ratings import EloRating, Ratings, bradley_terry, elo
from equipoise.statistics.wins import Judgement, WinRate, win_rate

__all__ = [
    "Agreement",
    "Claim",
    "Corrected",
    "EloRating",
    "Estimate",
    "Grader",
    "Judgement",
    "Ratings",
    "Verdict",
    "WinRate",
    "apart",
    "bradley_terry",
    "chance_met",
    "clopper_pearson",
    "cohen_kappa",
    "corrected_difference",
    "corrected_rate",
    "decide",
    "decide_corrected",
    "design_effect",
    "difference",
    "elo",
    "fleiss_kappa",
    "holm",
    "krippendorff_alpha",
    "lower_bound",
    "mean",
    "paired_p",
    "percent_agreement",
    "prompts_needed",
    "rate",
    "score_bounds",
    "upper_bound",
    "win_rate",
]
