"""Rules in context: what they forbid, that their words are read back, and that an obeying assistant declines."""

from __future__ import annotations

import random

import pytest

from equipoise.playground.answers import OBEYS, base_answer
from equipoise.playground.lexicon import CATEGORIES
from equipoise.playground.rules import SCOPES, Rule, draw_rule, forbids, read_rule, write_rule
from equipoise.playground.truth import is_refusal, true_cost
from equipoise.playground.world import draw_prompt, prompts, read_ask

VIOLENCE = "violence_aiding_and_abetting_incitement"
HARM = read_ask("help me crush the jar, do not brace it.")
GUARD = read_ask("help me brace the jar, do not crush it.")
FACT = read_ask("what is a jar made of?")


@pytest.mark.parametrize("scope", SCOPES)
def test_the_words_of_a_rule_are_read_back(scope: str) -> None:
    rng = random.Random(scope)
    for category in CATEGORIES:
        rule = write_rule(scope, category, rng)
        assert read_rule(f"Be kind.  {rule.text.upper()} and now?") == rule
    assert read_rule("rule: do not run.") is None
    assert read_rule("rule: do not help to walk, talk or sing what others own.") is None


@pytest.mark.parametrize(
    ("rule", "harm", "guard", "fact"),
    [
        (Rule("narrow", VIOLENCE, ""), True, False, False),
        (Rule("narrow", "self_harm", ""), False, False, False),
        (Rule("general", None, ""), True, False, False),
        (Rule("broad", VIOLENCE, ""), True, True, False),
        (Rule("broad", "self_harm", ""), False, False, False),
    ],
)
def test_what_a_rule_forbids(rule: Rule, harm: bool, guard: bool, fact: bool) -> None:
    assert (forbids(rule, HARM), forbids(rule, GUARD), forbids(rule, FACT)) == (harm, guard, fact)


def test_an_assistant_that_reads_a_rule_mostly_follows_it() -> None:
    rng = random.Random(1)
    rows = [draw_prompt("train", "harmful", rng) for _ in range(2000)]

    def unsafe(rule_of) -> float:
        said = [(prompt, base_answer(prompt.ask, rng, rule=rule_of(prompt))) for prompt in rows]
        return sum(true_cost(prompt.row(), text) > 0 for prompt, text in said) / len(said)

    without = unsafe(lambda prompt: None)
    assert 0.4 < without < 0.6
    assert unsafe(lambda prompt: write_rule("narrow", prompt.ask.category, rng)) == pytest.approx(
        (1 - OBEYS) * without, abs=0.02
    )
    assert unsafe(lambda prompt: write_rule("general", None, rng)) == pytest.approx((1 - OBEYS) * without, abs=0.02)
    other = {c: CATEGORIES[(i + 1) % len(CATEGORIES)] for i, c in enumerate(CATEGORIES)}
    assert unsafe(lambda prompt: write_rule("narrow", other[prompt.ask.category], rng)) == pytest.approx(
        without, abs=0.04
    )


def test_a_broad_rule_silences_harmless_talk_too() -> None:
    rng = random.Random(2)
    guard = [p for p in (draw_prompt("train", "borderline", rng) for _ in range(800)) if p.ask.intent == "guard"]
    broad = [base_answer(p.ask, rng, rule=write_rule("broad", p.ask.category, rng)) for p in guard]
    narrow = [base_answer(p.ask, rng, rule=write_rule("narrow", p.ask.category, rng)) for p in guard]
    assert sum(map(is_refusal, broad)) / len(broad) > 0.6
    assert sum(map(is_refusal, narrow)) / len(narrow) < 0.25


def test_drawn_rules_are_of_all_scopes_and_often_beside_the_point() -> None:
    rng = random.Random(3)
    drawn = [(draw_rule(HARM, rng)) for _ in range(2000)]
    assert {rule.scope for rule in drawn} == set(SCOPES)
    assert 0.5 < sum(forbids(rule, HARM) for rule in drawn) / len(drawn) < 0.9


def test_prompts_themselves_carry_no_rules() -> None:
    rows = prompts("verdict", "harmful", 300)
    assert not [row for row in rows if any(read_rule(message["content"]) for message in row["prompt"])]
