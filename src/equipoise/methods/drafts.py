"""A first config for a method and some files: few keys, each explained in a few words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import yaml

from equipoise.methods.fits import ROLES, Fit, Source

STAND_IN = "Qwen/Qwen2.5-0.5B-Instruct"
"""The model of a config whose user named none: small, on the hub, with a chat template."""

Line = tuple[str, str]
"""A line of YAML and what it means."""

_WIDEST = 62  # comments stand no further right than this, however long a path is
_LORA: tuple[Line, ...] = (
    ("use_peft: true", "LoRA, sized for 7 to 8B; false trains all weights (learning_rate 1.0e-6)"),
    ("lora_r: 32", ""),
    ("lora_alpha: 64", ""),
)
_ABOUT = {
    "sft": "supervised: answers are imitated",
    "dpo": "direct preference optimization on one order",
    "ipo": "a squared loss on one order",
    "kto": "each answer is wanted or not; no pairs needed",
    "sacpo": "helpfulness first, then safety relative to that model",
    "bfpo": "one loss for both: its label is of the order and of the safety flags",
    "modpo": "pairs by helpfulness, a safe model's rewards as margin",
    "safedpo": "pairs by helpfulness, a safe answer before an unsafe one",
    "cpo": "controllable: levels are asked for by name",
}


def draft(fit: Fit, *, base: str | None, command: str) -> str:
    """Return a config for a method that fits, with `base` or a stand-in as the model; `command` is named as its origin.

    Fewer than 30 lines, however many files there are.
    """
    rows = max(source.report.rows for found in fit.data.values() for source in found)
    name = _yaml(base or STAND_IN)
    method: list[Line] = [
        ("method: dpo", "one objective on one data set"),
        (f"objective: {fit.method}", _ABOUT[fit.method]),
    ]
    lines: list[Line] = [
        *(method if fit.method in ("sft", "dpo", "ipo", "kto") else [(f"method: {fit.method}", _ABOUT[fit.method])]),
        (f"model_name_or_path: {name}", "a directory or a hub id" if base else "a small stand-in: put your model here"),
        (f"output_dir: runs/{fit.method}", "results.json, and a link to each model"),
        ("data:", ""),
        *((f"  {role}: {_entries(role, found)}", _meaning(fit, role, found)) for role, found in fit.data.items()),
        *_holdout(fit, rows),
        *_of_method(fit),
        *([] if fit.method == "bfpo" else _LORA),
        (f"learning_rate: {_RATES.get(fit.method, '2.0e-5')}", ""),
        (f"num_train_epochs: {1 if rows >= 1000 else 3}", ""),
        (f"global_batch_size: {64 if rows >= 2000 else 16}", "rows in a step, on however many devices"),
        ("max_length: 2048", "tokens of prompt and answer; longer rows are dropped and counted"),
        ("tokens_per_micro_batch: 8192", "lower it where memory runs out: the result is the same"),
        ("gradient_checkpointing: true", "less memory, more time, the same result"),
    ]
    width = max(len(line) for line, note in lines if note and len(line) <= _WIDEST)
    written = [f"{line:<{width}}  # {note}" if note else line for line, note in lines]
    return "\n".join([f"# Written by: {command}", *written]) + "\n"


_RATES = {"bfpo": "5.0e-7", "sft": "1.0e-4"}


def _of_method(fit: Fit) -> list[Line]:
    """What a method has of its own."""
    told = fit.settings
    beta = ("beta: 0.1", "how closely to stay to the model that training starts from")
    if fit.method == "sft":
        return [(f"choose: {told['choose']}", "which answers are imitated")]
    if fit.method == "kto" and "answers" in fit.data:
        return [beta, ("prefer: better", "what labels are called; each answer's own label decides")]
    if fit.method == "sacpo":
        steps = [f"{{objective: {told['first']}, beta: 0.1}}", f"{{objective: {told['second']}, beta: 0.025}}"]
        return [
            (f"first: {steps[0]}", "beta: how closely to stay to the model that a step starts from"),
            (f"second: {steps[1]}", "smaller: safer, and further from the first step"),
            ("mix: [0.25, 0.5, 0.75]", "P-SACPO: points between the two steps; naive: true adds the baseline"),
        ]
    if fit.method == "bfpo":
        return [
            (f"sft: {{choose: {told['choose']}}}", "these answers are imitated first; sft: off goes without"),
            ("tau: 0.01", "how closely to stay to the imitating model"),
            ("trainable: [down_proj]", "the only layers that move"),
        ]
    if fit.method == "modpo":
        return [
            ("first: {beta: 0.1}", "the margin: dpo on safe"),
            ("second: {beta: 0.1}", "trained on helpful, once for each weight"),
            ("weights: [0.25, 0.5, 0.75]", "of helpfulness; the rest is safety's"),
        ]
    if fit.method == "cpo":
        scales = ", ".join(
            f"{name}: [{math.floor(low)}, {math.ceil(high)}]" for name, (low, high) in told["scales"].items()
        )
        return [
            (
                f"objectives: {{{scales}}}",
                "lowest and highest level: the ends found in the data, see that they are right",
            ),
            ("sft: {learning_rate: 1.0e-4}", "first: each answer imitated under its own ratings"),
            ("pairs: {objective: dpo, beta: 0.1}", "then: pairs by how well they meet what is asked for"),
        ]
    return [beta]


def _holdout(fit: Fit, rows: int) -> list[Line]:
    """Prompts to evaluate on, where the data order pairs; few rows need a larger share."""
    uses = {"helpful": "pairs by helpfulness", "safe": "pairs by safety"}
    ordered = any(s.use(uses[role]).possible for role, found in fit.data.items() if role in uses for s in found)
    if not ordered and fit.method not in ("bfpo", "safedpo", "cpo"):
        return []
    share = "0.05" if rows >= 1000 else "0.1" if rows >= 200 else "0.25"
    return [(f"holdout: {share}", "of the prompts, kept back to report accuracies on")]


def _meaning(fit: Fit, role: str, found: tuple[Source, ...]) -> str:
    objective = fit.settings.get({"helpful": "first", "safe": "second"}.get(role, ""), fit.method)
    if objective == "kto":
        return "each answer has a label" if all(s.has("label") for s in found) else f"answers, {_flag(role)}"
    return {
        "helpful": "the preferred answer is the more helpful one",
        "safe": "the preferred answer is the safer one",
        "pairs": "the more helpful answer is preferred; each is flagged safe or not",
        "buffer": "by helpfulness; every answer counts as safe",
        "rated": "rated answers, several to a prompt",
        "answers": "prompts and answers",
    }[role]


def _flag(role: str) -> str:
    return "each flagged safe or not" if role == "safe" else "the more helpful one wanted"


def _entries(role: str, found: tuple[Source, ...]) -> str:
    entries = [_entry(role, source) for source in found]
    return entries[0] if len(entries) == 1 else f"[{', '.join(entries)}]"


def _entry(role: str, source: Source) -> str:
    keys: dict[str, Any] = source.entry.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
    if source.report.layout == "pku" and role in ("helpful", "safe"):
        keys["axis"] = ROLES[role]  # of a file with both orders this role takes one
    order = [key for key in ("path", "split", "format", "axis", "map") if key in keys]
    return _yaml({key: keys[key] for key in [*order, *(key for key in keys if key not in order)]})


def _yaml(value: str | Mapping[str, Any]) -> str:
    """A value on one line, quoted where it has to be."""
    if isinstance(value, str):
        return _yaml({"it": value})[len("{it: ") : -1]
    return yaml.safe_dump(
        dict(value), default_flow_style=True, width=math.inf, sort_keys=False, allow_unicode=True
    ).strip()
