"""`equipoise init`: every layout gives a config that runs; an order without a meaning is asked for, never guessed."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import small
from equipoise.config import read_yaml
from equipoise.data.formats import LAYOUTS
from equipoise.errors import DataError, SettingError
from equipoise.methods.drafts import STAND_IN
from equipoise.methods.fits import METHODS, NO_FLAGS
from equipoise.methods.run import Run
from equipoise.runs import load_run, planned
from equipoise.starting import Wish, init, named, near_layouts
from equipoise.store import Store, using_store


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, rows: Sequence[dict[str, Any]]) -> str:
    small.jsonl(Path(name), list(rows))
    return name


def started(*files: str, **wish: Any) -> tuple[Run, list[str]]:
    """Run `init`, read what it wrote as `equipoise run --dry-run` and `equipoise run` do; (run, printed lines)."""
    printed = [str(line) for line in init(Wish(files, **wish))]
    path = wish.get("to", Path("config.yaml"))
    assert len(path.read_text(encoding="utf-8").splitlines()) < 30
    run = load_run(path, [])
    run.check_data(offline=True)
    run.check_data()
    with using_store(Store(Path("store"))):
        assert {state for _, _, state in planned(run)} == {"to be computed"}
    return run, printed


def verdicts(printed: Sequence[str]) -> dict[str, str]:
    """What was said of each method."""
    lines = [line[2:] for line in printed if line[:2] in ("→ ", "  ") and ": " in line]
    return {line[:8].strip(): line[8:] for line in lines if line[:8].strip() in METHODS}


def refusal(*files: str, **wish: Any) -> str:
    """The one sentence of a refused command, which leaves nothing behind."""
    with pytest.raises((SettingError, DataError)) as caught:
        list(init(Wish(files, **wish)))
    assert not Path("config.yaml").exists() and not list(Path().glob(".*tried*"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- rows of every layout --------------------------------------------------------------------------------------------

N = 12


def said(*texts: str, role: str = "role", content: str = "content", names: tuple[str, str] = ("user", "assistant")):
    return [{role: names[i % 2], content: text} for i, text in enumerate(texts)]


def rated(number: int) -> dict[str, Any]:
    return {"annotations": {"helpfulness": {"Rating": str(1 + number % 5)}, "honesty": {"Rating": str(5 - number % 4)}}}


def rows_of(layout: str) -> list[dict[str, Any]]:
    """Rows that anybody may have, one for each number."""
    asked = [f"What is {word}?" for word in small.WORDS[:N]]
    good, bad = [f"{word} is a word" for word in small.WORDS[:N]], ["no idea"] * N
    shape: dict[str, Any] = {
        "pku": lambda i: small.pku_rows(N)[i],
        "responses": lambda i: {
            "prompt": asked[i],
            "response_0": good[i],
            "response_1": bad[i],
            "better_response_id": 0,
            "helpfulness_score_0": 4,
            "helpfulness_score_1": i % 3,
            "clarity_score_0": i % 2,
            "clarity_score_1": 3.5,
        },
        "model-outputs": lambda i: {
            "prompt": asked[i],
            "modeloutput1": good[i],
            "modeloutput2": bad[i],
            "better_modelout": 1,
            "is_modelout1_safe": i % 2 == 0,
            "is_modelout2_safe": True,
        },
        "pairs": lambda i: {"prompt": asked[i], "chosen": good[i], "rejected": bad[i]},
        "sharegpt-pairs": lambda i: {
            "conversations": said(asked[i], role="from", content="value", names=("human", "gpt")),
            "chosen": {"from": "gpt", "value": good[i]},
            "rejected": {"from": "gpt", "value": bad[i]},
        },
        "alpaca-pairs": lambda i: {"instruction": asked[i], "input": "", "chosen": good[i], "rejected": bad[i]},
        "message-pairs": lambda i: {
            "messages": said(asked[i]),
            "chosen": {"role": "assistant", "content": good[i]},
            "rejected": {"role": "assistant", "content": bad[i]},
        },
        "hh": lambda i: {
            "chosen": f"\n\nHuman: {asked[i]}\n\nAssistant: {good[i]}",
            "rejected": f"\n\nHuman: {asked[i]}\n\nAssistant: {bad[i]}",
        },
        "dialogue-pairs": lambda i: {"chosen": said(asked[i], good[i]), "rejected": said(asked[i], bad[i])},
        "completion": lambda i: {"prompt": asked[i], "completion": good[i]},
        "rated-completions": lambda i: {
            "instruction": asked[i],
            "completions": [{"response": good[i], **rated(i)}, {"response": bad[i], **rated(i + 1)}],
        },
        "rated-responses": lambda i: {
            "instruction": asked[i],
            "responses": [
                {"response": good[i], "Helpful_Rating": "5", "Honesty_Rating": str(1 + i % 5)},
                {"response": bad[i], "Helpful_Rating": "1", "Honesty_Rating": "2"},
            ],
        },
        "alpaca": lambda i: {"instruction": asked[i], "input": "", "output": good[i]},
        "messages": lambda i: {"messages": said(asked[i], good[i])},
        "sharegpt": lambda i: {
            "conversations": said(asked[i], good[i], role="from", content="value", names=("human", "gpt"))
        },
        "prompts": lambda i: {"prompt": asked[i]},
        "red-team": lambda i: {"transcript": f"\n\nHuman: {asked[i]}\n\nAssistant: {bad[i]}", "task_description": ""},
        "questions-by-topic": lambda i: {"question": asked[i], "topic": "words", "subtopic": "nouns"},
        "questions-by-category": lambda i: {"Question": asked[i], "Category": "words"},
        "xstest": lambda i: {"prompt": asked[i], "type": "homonyms", "label": "safe", "focus": "word"},
        "text": lambda i: {"text": good[i]},
    }  # fmt: skip
    return [shape[layout](i) for i in range(N)]


PAIRED = ("responses", "pairs", "sharegpt-pairs", "alpaca-pairs", "message-pairs", "hh", "dialogue-pairs")
SINGLE = ("completion", "alpaca", "messages", "sharegpt")
RATED = ("rated-completions", "rated-responses")
LISTS = ("red-team", "questions-by-topic", "questions-by-category", "xstest")
UNTRAINABLE = ("prompts", "text", *LISTS)


def test_every_layout_is_tried_here():
    tried = {"pku", "model-outputs", *PAIRED, *SINGLE, *RATED, *UNTRAINABLE}
    assert set(LAYOUTS) - {"rated-pairs"} == tried  # rated-pairs is `responses` without its order


@pytest.mark.parametrize("layout", LISTS)
def test_lists_of_prompts_train_nothing(layout):
    write("list.jsonl", rows_of(layout))
    assert refusal("list.jsonl").startswith("list.jsonl holds prompts without answers")


def test_both_orders_in_one_file_make_sacpo():
    run, printed = started(write("pku.jsonl", rows_of("pku")), base="org/my-model")
    assert run.config.method == "sacpo" and run.base_name == "org/my-model"
    assert [(step.prefer, step.data.entries[0].axis) for step in run.steps] == [
        ("better", "better"),
        ("safer", "safer"),
    ]
    found = verdicts(printed)
    assert tuple(found) == tuple(METHODS)
    assert {name for name, words in found.items() if words.startswith("yes")} == set(METHODS) - {"cpo"}
    assert "P-SACPO" in found["sacpo"] and "naive" in found["sacpo"]
    assert printed[0] == "pku.jsonl: 12 rows, layout pku (two answers 12, better 12, safer 12, safe flags 12)"
    assert printed[-2:] == ["  equipoise data show pku.jsonl --model org/my-model",
                            "  equipoise run config.yaml --dry-run"]  # fmt: skip


@pytest.mark.parametrize("layout", PAIRED)
def test_an_order_without_a_meaning_is_asked_for_with_the_command_to_type(layout):
    name = write("my rows.jsonl", rows_of(layout))
    sentence = refusal(name)
    assert sentence.startswith(
        "my rows.jsonl orders its answers but does not say by what, which is never guessed: type "
    )
    commands = [shlex.split(part) for part in sentence.split("`")[1::2]]
    assert commands == [["equipoise", "init", "--role", f"{role}=my rows.jsonl"] for role in ("helpful", "safe")]
    for role, axis in (("helpful", "better"), ("safe", "safer")):
        run, _ = started(roles=((role, name),), to=Path(f"{role}.yaml"))
        (step,) = run.steps
        assert (step.objective.objective, step.prefer, step.data.entries[0].axis) == ("dpo", axis, axis)


def test_two_files_one_better_one_safer():
    names = write("a.jsonl", rows_of("pairs")), write("b.jsonl", rows_of("hh"))
    sentence = refusal(*names)
    assert "`equipoise init --role helpful=a.jsonl --role safe=b.jsonl`" in sentence
    run, printed = started(roles=named(["helpful=a.jsonl", "safe=b.jsonl"], "--role"))
    assert run.config.method == "sacpo"
    assert [Path(step.data.entries[0].path).name for step in run.steps] == ["a.jsonl", "b.jsonl"]
    assert verdicts(printed)["bfpo"] == f"no: {NO_FLAGS}" == verdicts(printed)["safedpo"]
    assert "name the columns under map:, or label them with a scorer or a judge" in NO_FLAGS


def test_two_entries_of_a_role_are_one_line():
    names = [write(f"{letter}.jsonl", rows_of("pairs")) for letter in "abc"]
    run, _ = started(roles=(("helpful", names[0]), ("helpful", names[1]), ("safe", names[2])))
    assert [len(step.data.entries) for step in run.steps] == [2, 1]


def test_pairs_with_flags_make_bfpo_and_safedpo_can_be_asked_for():
    name = write("flagged.jsonl", rows_of("model-outputs"))
    run, printed = started(roles=(("helpful", name),))
    assert run.config.method == "bfpo" and [step.choose for step in run.steps] == ["safe", "all"]
    assert verdicts(printed)["safedpo"].startswith("yes") and verdicts(printed)["sacpo"].startswith("no")
    buffer = write("more.jsonl", rows_of("pairs"))
    run, _ = started(roles=(("helpful", name), ("buffer", buffer)), to=Path("with-buffer.yaml"))
    assert run.config.method == "bfpo" and run.steps[-1].buffer is not None
    run, _ = started(roles=(("helpful", name),), method="safedpo", to=Path("safedpo.yaml"))
    assert run.config.method == "safedpo"


@pytest.mark.parametrize("layout", RATED)
def test_rated_answers_make_a_controllable_model(layout):
    run, printed = started(write("rated.jsonl", rows_of(layout)))
    assert run.config.method == "cpo"
    scales = {o.name: (o.low, o.high) for o in run.config.conditions.objectives}
    expected = {"rated-completions": {"helpfulness": (1, 5), "honesty": (2, 5)},
                "rated-responses": {"helpfulness": (1, 5), "honesty": (1, 5)}}  # fmt: skip
    assert scales == expected[layout]
    assert verdicts(printed)["dpo"] == "no: no two answers to a prompt are ordered"


def test_ratings_beside_an_order_need_no_role_for_cpo():
    name = write("rated.jsonl", rows_of("responses"))
    run, _ = started(name, method="cpo")
    assert run.config.method == "cpo" and run.steps[0].data.entries[0].format == "rated-pairs"
    assert {o.name: (o.low, o.high) for o in run.config.conditions.objectives} == {
        "helpfulness": (0, 4),
        "clarity": (0, 4),
    }


@pytest.mark.parametrize("layout", SINGLE)
def test_answers_alone_are_imitated(layout):
    run, printed = started(write("answers.jsonl", rows_of(layout)))
    (step,) = run.steps
    assert (step.objective.objective, step.choose, run.config.holdout) == ("sft", "all", 0)
    assert verdicts(printed)["kto"] == "no: answers have no label, no safety flag and no order"


def test_labels_make_kto_and_are_not_imitated():
    rows = [row | {"label": i % 2 == 0} for i, row in enumerate(rows_of("completion"))]
    run, printed = started(write("labels.jsonl", rows))
    (step,) = run.steps
    assert step.objective.objective == "kto"
    assert verdicts(printed)["sft"] == "no: answers labelled bad would be imitated too"


def test_safety_flags_of_single_answers_are_the_second_step_of_sacpo():
    helpful = write("helpful.jsonl", rows_of("pairs"))
    flags = write("flags.jsonl", [row | {"ok": i % 2} for i, row in enumerate(rows_of("completion"))])
    sentence = refusal(roles=(("helpful", helpful),), columns=(("safe", "ok"),))
    assert sentence.startswith("helpful.jsonl: map: {safe: ok}: there is no column ok")
    run, _ = started(flags, columns=(("safe", "ok"),), to=Path("kto.yaml"))
    assert run.steps[0].objective.objective == "kto" and run.steps[0].prefer == "safer"
    small.jsonl(Path("flags.jsonl"), [row | {"safe": i % 2} for i, row in enumerate(rows_of("completion"))])
    run, printed = started(flags, roles=(("helpful", helpful),))
    assert [step.objective.objective for step in run.steps] == ["dpo", "kto"]
    assert verdicts(printed)["bfpo"] == "no: the pairs by helpfulness have no safety flags of their own"


def test_other_columns_are_named_once_and_quoted():
    name = write(
        "odd, rows.jsonl", [{"q: 1": r["prompt"], "yes": r["chosen"], "no": r["rejected"]} for r in rows_of("pairs")]
    )
    columns = (("prompt", "q: 1"), ("chosen", "yes"), ("rejected", "no"))
    run, _ = started(columns=columns, roles=(("safe", name),))
    entry = run.steps[0].data.entries[0]
    assert entry.map == dict(columns) and Path(entry.path).name == name and entry.axis == "safer"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_asked_for(method):
    name = write("rows.jsonl", rows_of("rated-completions" if method == "cpo" else "pku"))
    if method in ("sft", "dpo", "ipo", "kto"):
        assert f"`equipoise init --role helpful=rows.jsonl --method {method}`" in refusal(name, method=method)
        run, printed = started(roles=(("safe", name),), method=method)
        assert run.steps[0].objective.objective == method
    else:
        run, printed = started(name, method=method)
        assert run.config.method == method
    assert [line.split()[1] for line in printed if line.startswith("→ ")] == [method]


# -- refusals --------------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten():
    name = write("pku.jsonl", rows_of("pku"))
    Path("config.yaml").write_text("mine")
    with pytest.raises(SettingError, match=r"^config\.yaml is there already and stays as it is: choose another name"):
        list(init(Wish((name,))))
    assert Path("config.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ({}, "name the files to start from, as in `equipoise init data.jsonl`"),
        ({"files": ("pkku.jsonl",)}, "pkku.jsonl: no file or folder at pkku.jsonl (did you mean 'pku.jsonl'?)"),
        ({"files": ("empty.jsonl",)}, "empty.jsonl is empty"),
        ({"files": ("pku.jsonl",), "method": "sacpoo"}, "--method sacpoo is unknown (did you mean 'sacpo'?)"),
        ({"files": ("pku.jsonl",), "to": Path("no/where.yaml")}, "--to no/where.yaml: there is no folder no"),
        ({"roles": (("helpfull", "pku.jsonl"),)}, "--role helpfull=pku.jsonl: there is no role helpfull (did you mean"),
        ({"files": ("pku.jsonl",), "base": "./none"}, "model './none' is not a directory, and a hub id looks like"),
        ({"files": ("pku.jsonl",), "base": "store"}, "--base store: the directory holds no model"),
        ({"roles": (("helpful", "p.jsonl"), ("safe", "p.jsonl"))}, "p.jsonl orders its answers once"),
        ({"roles": (("helpful", "p.jsonl"),), "method": "bfpo"}, "--method bfpo cannot run on these labels: which"),
        ({"roles": (("safe", "c.jsonl"),)}, "--role safe=c.jsonl: the file orders no answers and flags none"),
        ({"files": ("prompts.jsonl",)}, "prompts.jsonl holds prompts without answers (columns prompt): if"),
        ({"files": ("text.jsonl",)}, "text.jsonl holds documents without prompts, which only the pretraining"),
        ({"files": ("reply.jsonl",)}, "reply.jsonl has prompts and perhaps answers (reply), which is not guessed: type "
         "`equipoise init reply.jsonl --map completion=reply` if they are"),
        ({"files": ("odd.jsonl",)}, "odd.jsonl has columns of no known layout (gold, input_text): say which of them"),
    ],
)  # fmt: skip
def test_refusals_are_one_sentence(wish, sentence):
    write("pku.jsonl", rows_of("pku"))
    write("p.jsonl", rows_of("pairs"))
    write("c.jsonl", rows_of("completion"))
    write("prompts.jsonl", rows_of("prompts"))
    write("text.jsonl", rows_of("text"))
    write("reply.jsonl", [{"prompt": "Hi", "reply": "Hello"}])
    write("odd.jsonl", [{"input_text": "Hi", "gold": "Hello"}])
    Path("empty.jsonl").touch()
    Path("store").mkdir()
    assert refusal(*wish.pop("files", ()), **wish).startswith(sentence)


def test_the_nearest_layouts_are_named_with_what_they_lack():
    assert near_layouts(["chosen", "prompt", "other"]) == "pairs (lacks rejected); hh (lacks rejected)".replace(
        "hh", "dialogue-pairs"
    )
    assert near_layouts(["gold"]) == "pairs (lacks chosen, prompt, rejected); completion (lacks completion, prompt)"


def test_words_of_an_option_have_two_sides():
    assert named(["helpful=a=b.jsonl"], "--role") == (("helpful", "a=b.jsonl"),)
    with pytest.raises(SettingError, match=r"--role a\.jsonl is not of the form name=value, as in --role helpful=FILE"):
        named(["a.jsonl"], "--role")


def test_labels_of_two_kinds_are_not_chosen_between():
    labels = write("labels.jsonl", [row | {"label": i % 2} for i, row in enumerate(rows_of("completion"))])
    flags = write("flags.jsonl", [row | {"safe": i % 2} for i, row in enumerate(rows_of("completion"))])
    sentence = refusal(labels, flags)
    assert sentence.startswith("these labels fit more than one aim: say which, as in ")
    assert "`equipoise init labels.jsonl --method kto`" in sentence


def test_rows_that_would_be_dropped_are_said_and_not_trained():
    rows = rows_of("pairs")
    rows[3:] = [row | {"rejected": row["chosen"]} for row in rows[3:]]
    name = write("same.jsonl", rows)
    with pytest.raises(SettingError, match=r"same\.jsonl: more than 5% of the rows would be dropped \(9 identical"):
        list(init(Wish(roles=(("helpful", name),), method="dpo")))


def test_bfpo_without_flags_says_how_to_get_them():
    write("p.jsonl", rows_of("pairs"))
    settings = {
        "method": "bfpo",
        "model_name_or_path": STAND_IN,
        "data": {"pairs": {"path": "p.jsonl", "axis": "better"}},
    }
    run = Run.read({**settings, "sft": None}, base_dir=Path.cwd())
    with pytest.raises(
        SettingError, match=r"map:, or have a scorer or a judge label the answers; `equipoise init FILE`"
    ):
        run.check_data()


# -- real files and the command --------------------------------------------------------------------------------------


def test_real_files(shared_data: Path):
    helpful = str(shared_data / "helpsteer_pref_test" / "helpfulness_preference_test.jsonl")
    safe = str(shared_data / "hh_rlhf_harmless_test" / "test.jsonl.gz")
    run, _ = started(roles=(("helpful", helpful), ("safe", safe)))
    assert run.config.method == "sacpo" and run.config.global_batch_size == 64
    run, _ = started(str(shared_data / "pku_saferlhf_schema32" / "pku_saferlhf_32.json"), to=Path("pku.yaml"))
    assert run.config.method == "sacpo"
    run, printed = started(str(shared_data / "llamafactory_demo" / "kto_en_demo.json"), to=Path("kto.yaml"))
    assert run.steps[0].objective.objective == "kto" and verdicts(printed)["kto"] == "yes: 300 labels of their own"


COMMAND = """
import sys
from equipoise.cli import main
sys.argv = ["equipoise", "init", "pku.jsonl"]
main_exit = 0
try:
    main()
except SystemExit as exit_:
    main_exit = exit_.code
assert not main_exit, main_exit
heavy = [name for name in ("torch", "transformers", "peft") if name in sys.modules]
assert not heavy, heavy
"""


def test_the_command_writes_a_config_without_torch():
    write("pku.jsonl", rows_of("pku"))
    done = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "wrote config.yaml: sacpo" in done.stdout and json.dumps(read_yaml(Path("config.yaml"))["mix"])
    assert read_yaml(Path("config.yaml"))["model_name_or_path"] == STAND_IN
