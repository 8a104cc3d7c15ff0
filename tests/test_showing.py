"""`equipoise data show`: what is trained stands in brackets, and nothing in a row reaches the terminal as it is."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import pico
import small
from equipoise.data.sources import DataEntry
from equipoise.errors import DataError, SettingError
from equipoise.showing import Piece, drawn, pieces, show, training_rows, visible, words

PAIR = {"prompt": "Name a tree", "chosen": "Oak.", "rejected": "No"}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    """A tokenizer of bytes with a template, as a model's directory."""
    folder = tmp_path_factory.mktemp("show") / "base"
    pico.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def entry(tmp_path: Path):
    def write(rows: Sequence[dict[str, Any]], **keys: Any) -> DataEntry:
        return DataEntry(path=str(small.jsonl(tmp_path / "rows.jsonl", list(rows))), **keys)

    return write


def printed(entry: DataEntry, *, plain: bool = True, **options: Any) -> list[str]:
    """The lines that a console without colour prints."""
    console = Console(width=200, color_system=None, record=True, file=io.StringIO())
    for part in show(entry, plain=plain, **options):
        console.print(part, highlight=False)
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_a_pair_without_a_model_shows_the_layout_of_the_template(entry):
    lines = printed(entry([PAIR], axis="better"))
    assert lines[0].endswith(
        "pairs by better; words stand in for tokens (--model shows a model's own), chat template chatml"
    )
    assert lines[3:] == [
        "  prompt: 11 tokens, read once for both answers, not trained",
        "    <|im_start|>│user│↵│",
        "    Name│ a│ tree│<|im_end|>│↵│",
        "    <|im_start|>│assistant│↵",
        "  chosen: 3 tokens trained",
        "    ⟦Oak│.│▸<|im_end|>⟧",
        "  rejected: 2 tokens trained",
        "    ⟦No│▸<|im_end|>⟧",
        "",
        "⟦ ⟧ trained: the loss is on these tokens alone   ▸ end token: trained, so that the model stops",
        "│  border of two tokens   ↵ newline",
        "1 row: 16 tokens, 11 read and 5 trained, of these 2 end tokens",
    ]


def test_counts_are_those_of_the_models_tokenizer(entry, base):
    lines = printed(entry([PAIR], axis="safer"), model=base)
    assert "    <s>│[user]│N│a│m│e│ │a│ │t│r│e│e│[assistant]" in lines
    assert "  prompt: 14 tokens, read once for both answers, not trained" in lines
    assert "    ⟦O│a│k│.│▸</s>⟧" in lines and "    ⟦N│o│▸</s>⟧" in lines
    assert lines[-1] == "1 row: 22 tokens, 14 read and 8 trained, of these 2 end tokens"


def test_turns_in_which_answers_differ_are_read_but_not_trained(entry, base):
    turns = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "x"}, {"role": "user", "content": "q"}]
    row = {
        "chosen": [turns[0], {"role": "assistant", "content": "good"}],
        "rejected": [*turns, {"role": "assistant", "content": "bad"}],
    }
    lines = printed(entry([row], axis="better"), model=base)
    assert "    <s>│[user]│p│[assistant]" in lines
    assert "  rejected: 4 tokens trained, after 5 tokens that are only read" in lines
    assert "    x│</s>│[user]│q│[assistant]⟦b│a│d│▸</s>⟧" in lines


def test_labels_stand_beside_their_answers(entry):
    rows = [PAIR | {"chosen_safe": True, "rejected_safe": False, "chosen_honesty": 4.5, "rejected_honesty": 2}]
    lines = printed(entry(rows, axis="better"))
    assert "  chosen: 3 tokens trained (honesty 4.5, safe yes)" in lines
    assert "  rejected: 2 tokens trained (honesty 2, safe no)" in lines
    lines = printed(entry([{"prompt": "p", "completion": "c", "label": False}]), chat_template="plain")
    assert "    ⟦ c│▸</s>⟧" in lines and "  answer: 2 tokens trained (label no)" in lines


def test_rows_of_a_file_are_what_training_would_make_of_them(entry):
    both = training_rows(entry(small.pku_rows(6)))
    assert both.what == "pairs by better (the other order of the file: --axis safer)" and len(both.rows) == 6
    assert training_rows(entry(small.pku_rows(6), axis="safer")).what == "pairs by safer"
    assert training_rows(entry([{"text": "Once."}])).rows[0]["text"] == "Once."
    lost = training_rows(entry([PAIR, PAIR | {"rejected": "Oak."}], axis="better"))
    assert (len(lost.rows), lost.dropped) == (1, {"identical answers": 1})
    assert "not used, of the first 200 rows: identical answers 1" in printed(
        entry([PAIR, PAIR | {"rejected": "Oak."}], axis="better")
    )
    with pytest.raises(DataError, match=r"none of the first 200 rows can be trained on \(no answer 1\)"):
        training_rows(entry([{"prompt": "p"}]))


def test_documents_are_shown_too(entry, base):
    lines = printed(entry([{"text": "Once"}]), model=base)
    assert "    ⟦O│n│c│e│▸</s>⟧" in lines and "    <s>" in lines


def test_long_prompts_are_cut_in_the_middle_and_full_ones_are_not(entry, base):
    rows = [PAIR | {"prompt": "a" * 300}]
    short, full = (printed(entry(rows, axis="better"), model=base, full=full) for full in (False, True))
    assert any("… 143 tokens …" in line for line in short) and not any("…" in line for line in full)
    assert short[-1] == full[-1]  # 303 = 120 + 143 + 40: counts are of the whole
    assert "303 read" in full[-1]


def test_characters_of_several_tokens_are_one_piece_and_nothing_reaches_the_terminal(base):
    tokenizer = pico.tokenizer()
    ids = tokenizer("aö🌳\x1b[31m\u202e")["input_ids"]
    found = pieces(tokenizer, ids, ["read"] * len(ids))
    assert [(piece.text, piece.tokens) for piece in found[:3]] == [("a", 1), ("ö", 2), ("🌳", 4)]
    shown = drawn(found, plain=True).plain
    assert shown == "a│ö│🌳│\\x1b│[│3│1│m│\\u202e"
    assert visible("a\tb\n") == "a⇥\tb↵\n"


def test_colours_only_add_to_the_marks():
    stretch = [Piece("Hi", 1, "read"), Piece(" Oak", 1, "trained"), Piece("</s>", 1, "end")]
    assert (
        drawn(stretch, plain=True).plain
        == drawn(stretch, plain=False).plain.replace(" Oak", " Oak│")
        == "Hi⟦ Oak│▸</s>⟧"
    )
    styles = {str(span.style) for span in drawn(stretch, plain=False).spans}
    assert len(styles) == 4  # read, trained, end, and the marks


def test_words_come_back_as_they_were():
    text = "Tabs\tand  spaces,\nlines: it's 3.5 €!"
    row = {"prompt": [{"role": "user", "content": text}], "completion": [{"role": "assistant", "content": "ok"}]}
    tokenizer = words([row], "plain")
    rendered = tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], tokenize=False)
    ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert text in rendered and tokenizer.decode(ids) == rendered and tokenizer.unk_token_id not in ids


def test_refusals(entry):
    with pytest.raises(SettingError, match="does not say by what"):
        list(show(entry([PAIR])))
    with pytest.raises(SettingError, match="chat_template 'chatml2' is neither"):
        list(show(entry([PAIR], axis="better"), chat_template="chatml2"))
