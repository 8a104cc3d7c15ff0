import pytest

import pico
from equipoise.data.tokens import (
    NO_TRAINED_TOKEN,
    TOO_LONG,
    Branch,
    Encoded,
    Span,
    TokenTable,
    common_prefix,
    encode_rows,
    fit,
    join,
    spans,
    with_mismatched,
)
from equipoise.errors import DataError, SettingError
from equipoise.types import Dropped


def user(text):
    return [{"role": "user", "content": text}]


def said(text):
    return [{"role": "assistant", "content": text}]


@pytest.fixture(scope="module")
def tokenizer():
    return pico.tokenizer()


def text(tokenizer, ids):
    return tokenizer.decode(ids)


def test_golden_ids_and_span(tokenizer):
    (span,) = spans(tokenizer, [user("hi")], [said("yo")])
    bos, eos, is_user, is_assistant = (
        tokenizer.convert_tokens_to_ids(t) for t in ("<s>", "</s>", "[user]", "[assistant]")
    )
    h, i, y, o = (tokenizer.convert_tokens_to_ids(t) for t in "hiyo")
    assert span == Span([bos, is_user, h, i, is_assistant, y, o, eos], 5)
    assert span.ids.count(bos) == 1, "the template writes BOS, the tokenizer must not add another"
    assert span.ids[-1] == eos, "the end must be trained, or a model never stops"


def test_pad_equal_to_eos_does_not_hide_the_end(tokenizer):
    other = pico.tokenizer()
    other.pad_token = other.eos_token
    (span,) = spans(other, [user("hi")], [said("yo")])
    assert span.ids[-1] == other.eos_token_id and span.first == 5


def test_what_a_template_writes_after_the_end_is_cut(tokenizer):
    other = pico.tokenizer()
    other.chat_template = pico.TEMPLATE.replace("{{ '</s>' }}", "{{ '</s>\\n' }}")
    assert spans(other, [user("hi")], [said("yo")])[0].ids[-1] == other.eos_token_id


def test_a_template_without_an_end_gets_one(tokenizer):
    other = pico.tokenizer()
    other.chat_template = pico.TEMPLATE.replace("{{ '</s>' }}", "")
    ids = spans(other, [user("hi")], [said("yo")])[0].ids
    assert ids[-1] == other.eos_token_id and ids.count(other.eos_token_id) == 1


def test_only_the_last_turn_is_trained(tokenizer):
    prompt = [*user("a"), *said("b"), *user("c")]
    (span,) = spans(tokenizer, [prompt], [said("d")])
    assert text(tokenizer, span.ids[span.first :]) == "d</s>"


def test_pairs_share_their_longest_common_prefix_up_to_the_first_trained_token(tokenizer):
    same = join(spans(tokenizer, [user("x")] * 2, [said("abc"), said("abd")]))
    assert text(tokenizer, same.shared).endswith("[assistant]")  # "ab" is common but trained
    assert [b.lead for b in same.branches] == [0, 0]
    parted = join(
        spans(
            tokenizer, [user("x")] * 2, [[*said("p"), *user("q"), *said("abc")], [*said("r"), *user("q"), *said("abd")]]
        )
    )
    assert text(tokenizer, parted.shared) == "<s>[user]x[assistant]"
    assert [text(tokenizer, b.ids[b.lead :]) for b in parted.branches] == ["abc</s>", "abd</s>"]


def test_a_template_that_rewrites_the_prompt_is_refused():
    other = pico.tokenizer()
    other.chat_template = pico.TEMPLATE.replace("{{ '<s>' }}", "{{ '<s>' + (messages | length | string) }}")
    with pytest.raises(SettingError, match="generation prompt is a prefix"):
        spans(other, [user("hi")], [said("yo")])


def test_an_answer_must_end_with_the_assistant(tokenizer):
    with pytest.raises(DataError, match="assistant"):
        spans(tokenizer, [user("hi")], [user("yo")])


ROW = Encoded([1, 2, 3, 4], (Branch([5, 6, 7], 0), Branch([8], 0)))


def test_truncation():
    assert fit(ROW, max_length=7, truncation="drop") == ROW
    assert fit(ROW, max_length=6, truncation="drop") == TOO_LONG
    assert fit(ROW, max_length=6, truncation="keep_end").shared == [2, 3, 4]
    cut = fit(ROW, max_length=6, truncation="keep_start")
    assert (cut.shared, [b.ids for b in cut.branches]) == ([1, 2, 3, 4], [[5, 6], [8]])
    assert fit(ROW, max_length=3, truncation="keep_end") == TOO_LONG
    assert fit(ROW, max_length=4, truncation="keep_start") == TOO_LONG
    assert fit(ROW, max_length=6, truncation="drop", max_prompt_length=2).shared == [3, 4]
    assert fit(Encoded([1], (Branch([2, 3], 2),)), max_length=9, truncation="drop") == NO_TRAINED_TOKEN


def test_rows_come_back_in_order_with_reasons(tokenizer):
    rows = [{"id": str(n), "prompt": user("p" * n), "chosen": said("a"), "rejected": said("b" * n)} for n in (1, 30, 2)]
    out = list(encode_rows(tokenizer, rows, max_length=20, truncation="drop"))
    assert [row["id"] for row, _ in out] == ["0".replace("0", "1"), "30", "2"]
    assert out[1][1] == Dropped("30", TOO_LONG)
    assert out[0][1].length == len(out[0][1].shared) + 4


def test_table_round_trip(tmp_path):
    rows = pico.pair_rows(7)
    table = pico.table(tmp_path, rows)
    assert [table[i] for i in range(7)] == rows
    assert table.lengths.tolist() == [r.length for r in rows]
    assert table.trained.tolist() == [[len(b.ids) - b.lead for b in r.branches] for r in rows]
    assert table.n_branches == 2 and len(table) == 7
    assert isinstance(table, TokenTable)


def test_mismatched_partners_are_a_derangement_and_depend_on_the_seed_alone():
    rows = [Encoded([i], (Branch([100 + i, 1], 0),)) for i in range(20)]
    partner = [r.branches[1].ids[0] - 100 for r in with_mismatched(rows, seed=3)]
    assert sorted(partner) == list(range(20)) and all(p != i for i, p in enumerate(partner))
    assert partner == [r.branches[1].ids[0] - 100 for r in with_mismatched(rows, seed=3)]
    with pytest.raises(DataError, match="at least two"):
        with_mismatched(rows[:1], seed=0)


def test_common_prefix():
    assert [common_prefix([1, 2], [1, 3]), common_prefix([1], [1, 2]), common_prefix([], [1])] == [1, 1, 0]
