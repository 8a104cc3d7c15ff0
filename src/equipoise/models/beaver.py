"""Reward and cost models of Safe RLHF (Dai et al. 2023, arXiv:2310.12773), the Beaver family.

Their checkpoints are a decoder with `score_head` (weight, mostly a bias), and a config with `score_dim`, `score_type`
and what a normalizer has learned. They become plain sequence classifiers with one output.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from equipoise.errors import SettingError, nearest
from equipoise.models.load import ModelName, dtype_of, first_line, no_dropout, reach_hub
from equipoise.models.scored import give_scalar_entry

_EPSILON = 1e-8  # what their normalizer adds to a standard deviation


def is_beaver(model: ModelName) -> bool:
    """Whether a checkpoint is of this kind, by its config."""
    if model.adapter_base is not None:
        return False
    saved = _config(model).to_dict()
    return "score_dim" in saved or any(name.endswith("ForScore") for name in saved.get("architectures") or [])


def load_beaver(model: ModelName, *, dtype: str, attn_implementation: str | None) -> nn.Module:
    """The checkpoint as a sequence classifier whose head holds the bias and, if the checkpoint normalizes, that too.

    Raises SettingError for several scores per answer, for a normalizer without its figures and for missing weights.
    """
    from transformers import AutoModelForSequenceClassification

    config = _config(model)
    saved = config.to_dict()
    if saved.get("score_dim", 1) != 1:
        raise SettingError(f"'{model}' gives {saved['score_dim']} scores to an answer, expected 1")
    shift, scale = _normalizer(saved, str(model))
    config.num_labels, config.architectures = 1, None
    try:
        plain = AutoModelForSequenceClassification._model_mapping[type(config)]
    except KeyError as error:
        raise SettingError(f"'{model}' is a {config.model_type}, which has no sequence classifier") from error
    try:
        loaded, loading = _with_bias(plain).from_pretrained(
            model.location,
            revision=model.revision or "main",
            config=config,
            dtype=dtype_of(dtype),
            attn_implementation=attn_implementation,
            key_mapping={r"^score_head\.": "score."},
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise SettingError(f"no score model can be loaded from '{model}': {first_line(error)}") from error
    missing = set(loading["missing_keys"])
    if "score.bias" in missing and not saved.get("score_bias"):
        nn.init.zeros_(loaded.score.bias)  # the first of them had none
        missing.remove("score.bias")
    if missing:
        raise SettingError(f"the weights of '{model}' lack '{min(missing).replace('score.', 'score_head.')}'")
    head = loaded.score.float()
    with torch.no_grad():
        head.weight.div_(scale)
        head.bias.sub_(shift).div_(scale)
    loaded.__class__ = plain
    no_dropout(loaded)
    return give_scalar_entry(loaded)


def _config(model: ModelName) -> Any:
    from transformers import AutoConfig

    try:
        reach_hub(model)
        return AutoConfig.from_pretrained(model.location, revision=model.revision or "main")
    except (OSError, ValueError) as error:
        raise SettingError(f"no model can be loaded from '{model}': {first_line(error)}") from error


def _with_bias(plain: Any) -> Any:
    """The class, with a bias in its head: transformers builds the head of a decoder without one."""

    def init(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        plain.__init__(self, config, *args, **kwargs)
        if not isinstance(dict(self.named_children()).get("score"), nn.Linear):
            raise ValueError(f"{plain.__name__} has no linear head called 'score'")
        self.score = nn.Linear(self.score.in_features, 1, bias=True)

    return type(plain.__name__, (plain,), {"__init__": init, "__module__": plain.__module__})


def _normalizer(saved: dict[str, Any], name: str) -> tuple[float, float]:
    """What is subtracted from a score, and what it is divided by: rewards (x - mean) / std, costs x / std.

    Costs keep their sign. Off in the published models, whatever mean and variance they carry.
    """
    kinds = ("reward", "cost", "critic")
    kind = saved.get("score_type", "reward")
    if kind not in kinds:
        raise SettingError(f"'{name}': score_type is '{kind}', which is unknown{nearest(str(kind), kinds)}")
    if not saved.get("do_normalize") or kind == "critic":
        return 0.0, 1.0
    mean, var = ([value] if isinstance(value := saved.get(key), (int, float)) else value for key in ("mean", "var"))
    figures = (mean or []) + (var or [])
    if len(figures) != 2 or not all(math.isfinite(f) for f in figures) or figures[1] < 0:
        raise SettingError(f"'{name}' normalizes its scores (do_normalize) but its config holds no mean and var for it")
    return (figures[0] if kind == "reward" else 0.0), math.sqrt(figures[1]) + _EPSILON
