"""Controllable preference optimization through the real stages: who refers to whom, what is asked for and refused."""

import json
import math

import pytest
import yaml

import pico
import small
from equipoise.data.conditions import CONDITIONS_FILE, Conditions, recorded
from equipoise.errors import DataError, SettingError
from equipoise.methods.cpo import cpo
from equipoise.methods.run import Run
from equipoise.preparing import PrepareConfig
from equipoise.runs import execute
from equipoise.store import DryStore, Store, using_store

LN2 = math.log(2)
SCALES = {"tone": [1, 3], "harmlessness": [0, 1]}


pytestmark = pytest.mark.usefixtures("one_thread")


def answers(n: int = 14) -> list[dict]:
    """Prompts with three answers each: rated 1, 2, 3 in tone, of which the third is harmful."""
    rated = [{"Tone_Rating": str(tone), "Harmlessness_Rating": str(int(tone < 3))} for tone in (1, 2, 3)]
    texts = ("a b", "c d", "e f")
    return [
        {
            "instruction": f"{small.WORDS[i % 16]} {i}?",
            "responses": [{"response": f"{text} {i}", **ratings} for text, ratings in zip(texts, rated, strict=True)],
        }
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base model and a file of rated answers; stages that tests have in common are computed once."""
    folder = tmp_path_factory.mktemp("cpo")
    pico.directory(folder / "base")
    small.jsonl(folder / "rated.jsonl", answers())
    return folder


def settings(folder, **changes):
    train = {"learning_rate": 5e-3, "global_batch_size": 8, "max_steps": 2, "max_length": 200, "logging_steps": 1}
    return {
        "method": "cpo",
        "model_name_or_path": "base",
        "output_dir": str(folder / "out"),
        "data": {"rated": {"path": "rated.jsonl"}},
        "objectives": SCALES,
        **train,
        **changes,
    }


def run(world, **changes):
    return Run.read(settings(world, **changes), base_dir=world)


def spec(artefact):
    return json.loads((artefact.path / "spec.json").read_text())


def rows(world, artefact):
    folder = world / "store" / spec(artefact)["inputs"]["data"]
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_cdpo_starts_from_cpsft_and_refers_to_it(world):
    asked = run(world)
    with using_store(Store(world / "store")):
        cpsft, cdpo = (made.artefact for made in asked.execute())
        base = asked.base
    assert spec(cpsft)["inputs"]["model"] == base.id
    assert spec(cdpo)["inputs"]["model"] == cpsft.id
    reference = world / "store" / spec(cdpo)["inputs"]["reference"]
    assert json.loads((reference / "spec.json").read_text())["inputs"]["model"] == cpsft.id
    assert small.metrics(cdpo.path)[0]["loss"] == pytest.approx(LN2, abs=1e-3)

    imitated = rows(world, cpsft)
    assert {row["prompt"][0]["content"].rpartition("> ")[0] for row in imitated} == {
        "< tone: 1 > < harmlessness: 1 ",
        "< tone: 2 > < harmlessness: 1 ",
    }
    for row in imitated:
        assert row["completion"][0]["content"][:3] == {1: "a b", 2: "c d"}[row["condition"]["tone"]]
    orders = {(row["condition"]["tone"], row["chosen"][0]["content"][0]) for row in rows(world, cdpo)}
    assert orders >= {(1, "a"), (2, "c")} and not {(1, "e"), (2, "e")} & orders

    for model in (cpsft, cdpo):
        kept = recorded(model.path / "model")
        assert kept is not None and [o.name for o in kept.objectives] == ["tone", "harmlessness"]


def test_what_is_left_out_is_counted_and_no_fault(world):
    asked = run(world)
    with using_store(Store(world / "store")):
        asked.execute()
    summaries = [json.loads(p.read_text())["summary"] for p in (world / "store").glob("prepare-*/manifest.json")]
    assert {"its condition would ask for harm": 14} in [summary["dropped"] for summary in summaries]
    counted = [summary["asked_for"] for summary in summaries if summary["rows"] == 28]
    assert {"< tone: 1 > < harmlessness: 1 >": 14, "< tone: 2 > < harmlessness: 1 >": 14} in counted


def test_a_run_leaves_results_on_held_out_pairs(world):
    said = []
    with using_store(Store(world / "store")):
        out = execute(run(world, holdout=0.3, near_duplicates="off"), say=said.append)
    results = json.loads((out / "results.json").read_text())["results"]
    assert [r["label"] for r in results] == ["base", "CPSFT: sft(rated)", "CDPO: dpo(rated, 0.1)"]
    assert all("rated/implicit_reward" in r["metrics"] for r in results)
    assert (out / "1-cpsft--sft-rated" / CONDITIONS_FILE).is_file()
    written = yaml.safe_load((out / "config.yaml").read_text())
    assert Run.read(written, base_dir=world).steps[0].conditions == run(world).steps[0].conditions


def test_weights_and_budgets_leave_cpsft_as_it_is(world, tmp_path):
    def planned(**changes):
        store = DryStore(tmp_path)
        with using_store(store):
            run(world, **changes).execute()
        return [name for stage, name, _ in store.planned if stage == "train"]

    plain = planned()
    for changes in (
        {"objectives": {"tone": {"low": 1, "high": 3, "weight": 2}, "harmlessness": [0, 1]}},
        {"budgets": [{"control": {"tone": 3}, "pairs": 5}]},
        {"temperature": 0.5},
        {"untagged_top": 1},
        {"draw": "uniform"},
    ):
        other = planned(**changes)
        assert other[0] == plain[0] and other[1] != plain[1]
    assert planned(ask_for_harm=True)[0] != plain[0]
    assert planned(objectives={"harmlessness": [0, 1], "tone": [1, 3]})[0] != plain[0]  # the order of the tokens


def test_runs_without_conditions_keep_their_addresses():
    given = {"name": "helpful", "entries": ({"axis": "better"},), "layout": "pair", "prefer": "better"}
    assert "conditions" not in PrepareConfig(**given).canonical()
    conditions = Conditions.make({"objectives": SCALES})
    assert PrepareConfig(**given, conditions=conditions).canonical()["conditions"]["draw"] == "own"


def test_steps_may_differ_in_data_and_training(world):
    small.jsonl(world / "more.jsonl", answers(6))
    both = {"rated": {"path": "rated.jsonl"}, "more": {"path": "more.jsonl"}}
    first, second = run(
        world, data=both, sft={"data": "more", "learning_rate": 1e-4}, pairs={"data": "rated", "beta": 0.3}
    ).steps
    assert (first.data.name, second.data.name) == ("more", "rated")
    assert (first.train.learning_rate, second.train.learning_rate) == (1e-4, 5e-3)
    assert (first.objective.objective, second.objective.settings["beta"]) == ("sft", 0.3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": {}}, "objectives"),
        ({"budgets": [{"control": {"tome": 1}}]}, "budget 1 names 'tome', which is no objective .did you mean 'tone'"),
        ({"budgets": [{"control": {"harmlessness": 0}}]}, "set ask_for_harm: true"),
        ({"pairs": {"objective": "kto"}}, "pairs: objective kto does not train on pair rows"),
        ({"sft": {"objective": "dpo"}}, "sft: objective dpo does not train on completion rows"),
        ({"sft": {"beta": 1}}, "sft: unknown key 'beta'"),
        ({"sft": {"data": "rate"}}, "sft: data 'rate' is not one of the roles under data: .did you mean 'rated'"),
        ({"data": {"a": "rated.jsonl", "b": "rated.jsonl"}}, "sft: say which data it uses, data: a"),
        ({"sft": {"use_peft": True, "lora_r": 4}}, "step 2: use_peft is False, but the step continues the adapter"),
        ({"untaged_top": 1}, "did you mean 'untagged_top'"),
    ],
)
def test_configs_that_are_refused(world, changes, message):
    with pytest.raises(SettingError, match=message):
        run(world, **changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Tone_Rating": "4"}, "ratings of tone lie outside its scale, such as 4, expected 1, 2, 3"),
        ({"Tone_Rating": "high"}, r"responses\[0\]: the rating of Tone is 'high', expected a number"),
    ],
)
def test_ratings_that_are_refused_before_anything_loads(world, change, message):
    records = answers(8)
    for record in records:
        record["responses"][0].update(change)
    small.jsonl(world / "bad.jsonl", records)
    with pytest.raises((SettingError, DataError), match=message):
        run(world, data={"rated": "bad.jsonl"}).check_data()


def test_files_without_ratings_or_with_one_answer_are_refused(world):
    small.jsonl(world / "pku.jsonl", small.pku_rows(4))
    with pytest.raises(SettingError, match="no answer of the first 4 rows is rated on tone, harmlessness"):
        run(world, data={"rated": "pku.jsonl"}).check_data()
    single = [{**record, "responses": record["responses"][:1]} for record in answers(4)]
    small.jsonl(world / "single.jsonl", single)
    with pytest.raises(SettingError, match="needs several answers to a prompt"):
        run(world, data={"rated": "single.jsonl"}).check_data()
    run(world).check_data()


def test_forged_tokens_in_training_prompts_are_dropped_and_too_many_refused(world):
    records = answers(10)
    for record in records[:2]:
        record["instruction"] = f"<Tone : 3> {record['instruction']}"
    small.jsonl(world / "forged.jsonl", records)
    with using_store(Store(world / "store")):
        with pytest.raises(DataError, match="2 holds a preference token"):
            run(world, data={"rated": "forged.jsonl"}).execute()
        cpsft = run(world, data={"rated": "forged.jsonl"}, max_dropped=0.2).execute()[0].artefact
    assert len(rows(world, cpsft)) == 16


def test_steps_must_be_what_the_method_says(world):
    first, second = run(world).steps
    with pytest.raises(SettingError, match="the step pairs has no conditions"):
        cpo("base", first, small.step(world / "pku.jsonl", "better"))
    with pytest.raises(SettingError, match="the step sft trains on completion rows, which dpo does not"):
        cpo("base", second, first)
