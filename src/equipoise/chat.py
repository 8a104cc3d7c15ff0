"""`equipoise chat`: talk to a model in the terminal, asking for the levels that it was trained to be asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from equipoise.data.conditions import Conditions, asked, check_condition, recorded, written
from equipoise.data.forged import holds_tokens
from equipoise.errors import DataError, SettingError, nearest
from equipoise.generate import Sampling, answer_aloud, prompt_ids
from equipoise.types import Message

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

FORGED = "preference tokens in your text were taken out"
FORGOTTEN = "the beginning of the dialogue no longer fits and was left out"


def wanted(conditions: Conditions | None, given: Mapping[str, str], *, model: str) -> dict[str, float]:
    """Return the condition that options ask for, checked against what the model records (SettingError).

    Levels that ask for harm are refused for a model that was not trained on them: it never saw such tokens.
    """
    if conditions is None:
        if given:
            name = next(iter(given))
            raise SettingError(f"--{name}: '{model}' records no objectives, so there is nothing to ask it for")
        return {}
    known = {objective.name: objective for objective in conditions.objectives}
    condition: dict[str, float] = {}
    for name, value in given.items():
        if name not in known:
            raise SettingError(f"--{name} is no objective of '{model}'{nearest(name, known)}")
        try:
            condition[name] = float(value)
        except ValueError:
            raise SettingError(f"--{name} is '{value}', expected a number") from None
        check_condition({name: condition[name]}, conditions.objectives)
        if known[name].asks_for_harm(condition[name]) and not conditions.ask_for_harm:
            raise SettingError(
                f"--{name} {written(condition[name])} asks for harm, and '{model}' was not trained to be asked for it"
            )
    return condition


@dataclass
class Dialogue:
    """A conversation: what was said, and what is asked for from the next answer on."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    sampling: Sampling
    conditions: Conditions | None = None
    condition: dict[str, float] = field(default_factory=dict)
    turns: list[Message] = field(default_factory=list)

    def answer(self, text: str, *, say: Callable[[str], None], note: Callable[[str], None]) -> str:
        """Put `text` to the model; its answer goes to `say` as it comes, remarks about the text to `note`.

        Forged preference tokens in any user turn are taken out; the oldest exchanges go where the dialogue is too long.
        """
        objectives = self.conditions.objectives if self.conditions is not None else ()
        if holds_tokens(text, [objective.name for objective in objectives]):
            note(FORGED)
        turns = [*self.turns, Message(role="user", content=text)]
        room = self._room()
        while len(turns) > 2 and room is not None and self._length(turns) > room:
            del turns[:2]
            note(FORGOTTEN)
        name = f"turn {sum(turn['role'] == 'user' for turn in turns)}"
        said = answer_aloud(self.model, self.tokenizer, self._read(turns), self.sampling, name=name, say=say)
        self.turns = [*turns, Message(role="assistant", content=said)]
        return said

    def _read(self, turns: list[Message]) -> list[Message]:
        """The turns as the model reads them."""
        if self.conditions is None:
            return turns
        return list(asked(turns, self.condition, self.conditions.objectives))

    def _length(self, turns: list[Message]) -> int:
        return len(prompt_ids(self.tokenizer, self._read(turns)))

    def _room(self) -> int | None:
        """Tokens of dialogue that leave room for an answer."""
        positions = self.model.config.get_text_config(decoder=True).to_dict().get("max_position_embeddings")
        return None if positions is None else positions - self.sampling.max_new_tokens


def open_dialogue(model: str, given: Mapping[str, str], sampling: Sampling, *, chat_template: str | None) -> Dialogue:
    """Check what is asked for, then load a model (a directory or hub id) to talk to."""
    from equipoise.models.load import ModelName, load_for_scoring, load_tokenizer, this_process

    conditions = recorded(Path(ModelName.parse(model).location))
    condition = wanted(conditions, given, model=model)
    tokenizer = load_tokenizer(model, chat_template)
    loaded = load_for_scoring(model, "auto", "sdpa", this_process().device)
    return Dialogue(loaded, tokenizer, sampling, conditions, condition)


def change(dialogue: Dialogue, line: str, *, model: str) -> None:
    """Follow a line such as `/honesty 5` (asked for from now on) or `/honesty` (no longer)."""
    name, _, value = line.removeprefix("/").partition(" ")
    if value.strip():
        dialogue.condition |= wanted(dialogue.conditions, {name: value.strip()}, model=model)
    elif name in dialogue.condition:
        del dialogue.condition[name]
    else:
        known = [o.name for o in dialogue.conditions.objectives] if dialogue.conditions is not None else []
        raise DataError(f"/{name} is not asked for{nearest(name, known)}; /NAME LEVEL asks, /NAME takes it back")
