"""Preference tokens: what is wanted of an answer, as text before the request.

Guo et al. 2024, arXiv:2402.19085 (controllable preference optimization). Training, evaluation and chat all write tokens
through `conditioned` and nothing else, so that what a model is asked is what it was trained on.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from equipoise.config import Config, Later
from equipoise.data.forged import neutralize
from equipoise.errors import SettingError, nearest
from equipoise.types import Message

Condition = Mapping[str, float]
"""What is asked for: levels by the name of their objective; an objective that is not named is not controlled."""

CONDITIONS_FILE = "conditions.json"  # beside prepared rows, and beside the weights of a model trained on them

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_GUARDED = frozenset(("harmlessness", "harmless", "safety", "safe", "nontoxicity"))
_MOST_LEVELS = 1000


class Objective(Config):
    """A rated property of answers and its scale: levels from `low` to `high`, `step` apart.

    `weight` and `strictness` are omega and lambda of the reward (`controllable.value`). The low half of a `guarded`
    scale asks for harm: such conditions are opt-in. By default that is so of harmlessness and safety.
    """

    name: str
    low: float = Field(1.0, allow_inf_nan=False)
    high: float = Field(5.0, allow_inf_nan=False)
    step: float = Field(1.0, gt=0, allow_inf_nan=False)
    weight: float = Field(1.0, ge=0, allow_inf_nan=False)
    strictness: float = Field(1.0, gt=0, allow_inf_nan=False)
    guarded: bool | None = None

    @model_validator(mode="after")
    def _is_a_scale(self) -> Objective:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"'{self.name}' cannot name an objective: use letters, digits, _ and -, a letter first")
        steps = (self.high - self.low) / self.step
        if not 0 < steps < _MOST_LEVELS or not math.isclose(steps, round(steps), abs_tol=1e-9):
            raise ValueError(
                f"the scale of {self.name} goes from {written(self.low)} to {written(self.high)} in steps of "
                f"{written(self.step)}, expected two levels or more, a whole number of steps apart"
            )
        return self

    @property
    def levels(self) -> tuple[float, ...]:
        """All levels, the lowest first."""
        return tuple(self._at(i) for i in range(round((self.high - self.low) / self.step) + 1))

    def _at(self, number: int) -> float:
        return round(self.low + number * self.step, 12)

    def holds(self, rating: float) -> bool:
        """Whether a rating lies on the scale (between two levels is on it)."""
        return self.low <= rating <= self.high

    def level(self, rating: float) -> float:
        """Return the level nearest to a rating, the upper one of two equally near."""
        return self._at(math.floor((rating - self.low) / self.step + 0.5))

    def asks_for_harm(self, level: float) -> bool:
        """Whether wanting this level is wanting harm."""
        guarded = self.name.lower() in _GUARDED if self.guarded is None else self.guarded
        return guarded and level < (self.low + self.high) / 2


def objectives_of(value: Any) -> Any:
    """Return objectives as a config may write them, `{honesty: [1, 5], tone: {high: 3}}`, as a list of their settings.

    The order they are written in is the order of their tokens.
    """
    if not isinstance(value, Mapping):
        return value
    out = []
    for name, scale in value.items():
        if isinstance(scale, Mapping):
            out.append({"name": name, **scale})
        elif isinstance(scale, list | tuple) and len(scale) == 2:
            out.append({"name": name, "low": scale[0], "high": scale[1]})
        else:
            raise ValueError(f"the scale of '{name}' is {scale!r}, expected [low, high], as in {name}: [1, 5]")
    return out


def written(level: float) -> str:
    """Return a level as tokens and messages show it: 5.0 is 5."""
    return str(int(level)) if float(level).is_integer() else repr(float(level))


def check_condition(condition: Condition, objectives: Sequence[Objective]) -> None:
    """Refuse a condition that names an unknown objective or a level that is not on its scale (SettingError)."""
    known = {objective.name: objective for objective in objectives}
    for name, level in condition.items():
        if name not in known:
            raise SettingError(f"the condition names '{name}', which is no objective{nearest(name, known)}")
        if not any(math.isclose(level, one, abs_tol=1e-9) for one in known[name].levels):
            raise SettingError(f"{name} is {written(level)}, expected one of its levels {shown_levels(known[name])}")


def shown_levels(objective: Objective) -> str:
    """Return the levels in words: all of them where they are few."""
    levels = [written(level) for level in objective.levels]
    return ", ".join(levels) if len(levels) <= 12 else f"{levels[0]}, {levels[1]}, ... {levels[-1]}"


def prefix(condition: Condition, objectives: Sequence[Objective]) -> str:
    """Return the tokens of a condition in the order of `objectives`, each with a space after it; none for {}."""
    check_condition(condition, objectives)
    asked = (objective.name for objective in objectives if objective.name in condition)
    return "".join(f"< {name}: {written(condition[name])} > " for name in asked)


def conditioned(text: str, condition: Condition, objectives: Sequence[Objective]) -> str:
    """Write a condition before a prompt: "Hi" becomes "< helpfulness: 5 > < honesty: 3 > Hi"."""
    return prefix(condition, objectives) + text


def parse(text: str, objectives: Sequence[Objective]) -> tuple[dict[str, float], str]:
    """Return the condition that `text` begins with, as `conditioned` writes it, and the text after it."""
    condition: dict[str, float] = {}
    names = "|".join(re.escape(objective.name) for objective in objectives)
    token = re.compile(rf"< ({names}): (-?[0-9.e+-]+) > ")
    while names and (found := token.match(text)) and found[1] not in condition:
        condition[found[1]] = float(found[2])
        text = text[found.end() :]
    return condition, text


def place(turns: Sequence[Message], condition: Condition, objectives: Sequence[Objective]) -> tuple[Message, ...]:
    """Write a condition before the last user turn of a dialogue.

    The last, not the first: the condition is about the answer that comes next, it may change from turn to turn, and
    where a long dialogue is cut at its start the tokens stay. Earlier turns hold none, in training as in chat.
    """
    users = [at for at, turn in enumerate(turns) if turn["role"] == "user"]
    if not users:
        raise SettingError("the dialogue has no user turn that preference tokens could stand before")
    at = users[-1]
    spoken = Message(role="user", content=conditioned(turns[at]["content"], condition, objectives))
    return (*turns[:at], spoken, *turns[at + 1 :])


def asked(turns: Sequence[Message], condition: Condition, objectives: Sequence[Objective]) -> tuple[Message, ...]:
    """Return a dialogue as a served model reads it: forged tokens out of all user turns, then the condition."""
    names = [objective.name for objective in objectives]
    clean = [
        Message(role=turn["role"], content=neutralize(turn["content"], names)) if turn["role"] == "user" else turn
        for turn in turns
    ]
    return place(clean, condition, objectives)


# -- settings --------------------------------------------------------------------------------------------------------


def _control(value: Any) -> Any:
    """Accept `all`, a list of names (any level each), or levels by name where `any` is no particular one."""
    if value in ("all", None):
        return None
    if isinstance(value, list | tuple):
        return dict.fromkeys(value)
    if isinstance(value, Mapping):
        return {name: None if level == "any" else level for name, level in value.items()}
    return value


class Budget(Config):
    """One kind of condition, and at most how many pairs are made under it (None: all there are).

    `control` names the controlled objectives, each with a level or None for any; None controls all that a row rates.
    """

    control: Annotated[dict[str, float | None] | None, BeforeValidator(_control)] = None
    pairs: int | None = Field(default=None, ge=0)


class Conditions(Config):
    """How conditions are found, answers ordered and prompts tagged.

    `draw`: `own` takes the ratings of one of the prompt's own answers, `uniform` any level of the scale. `temperature`
    T draws the order of two answers with probability sigma((R1 - R2) / T) instead of taking the sign. `untagged_top`
    is the share of pairs under the top condition (everything that is rated, at its best) whose prompt goes without
    tokens; `partial` the share of imitated answers (CPSFT) whose prompt names only some of the objectives, so that a
    user may leave some out. `ask_for_harm` allows conditions in the low half of a guarded scale.
    """

    objectives: Annotated[tuple[Objective, ...], BeforeValidator(objectives_of)] = Field(min_length=1)
    draw: Literal["own", "uniform"] = "own"
    budgets: tuple[Budget, ...] = (Budget(),)
    temperature: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    untagged_top: float = Field(default=0.0, ge=0, le=1)
    ask_for_harm: bool = False
    seed: int = 0
    partial: float = Later(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _fits_together(self) -> Conditions:
        known = {objective.name: objective for objective in self.objectives}
        if len(known) < len(self.objectives):
            raise ValueError("two objectives have the same name")
        if not self.budgets:
            raise ValueError("budgets is empty: leave it out for one condition per prompt")
        for number, budget in enumerate(self.budgets, start=1):
            for name, level in (budget.control or {}).items():
                if name not in known:
                    raise ValueError(f"budget {number} names '{name}', which is no objective{nearest(name, known)}")
                if level is None:
                    continue
                try:
                    check_condition({name: level}, self.objectives)
                except SettingError as problem:
                    raise ValueError(f"budget {number}: {problem}") from None
                if known[name].asks_for_harm(level) and not self.ask_for_harm:
                    raise ValueError(
                        f"budget {number} has {name}: {written(level)} as its target, which trains a model to do harm "
                        "when asked: set ask_for_harm: true if that is meant"
                    )
        return self

    def record(self, folder: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
        """Write what a model trained on `rows` may be asked for; return how often each prompt's tokens occur."""
        kept = {"objectives": [o.canonical() for o in self.objectives], "ask_for_harm": self.ask_for_harm}
        (folder / CONDITIONS_FILE).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        said = (row["condition"] if row["tagged"] else {} for row in rows)
        return dict(Counter(prefix(condition, self.objectives).strip() for condition in said))


def recorded(model: Path) -> Conditions | None:
    """Return what a model may be asked for, as its directory says; None for one that was not trained on conditions."""
    try:
        kept = json.loads((model / CONDITIONS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Conditions.make(kept, where=str(model / CONDITIONS_FILE))
