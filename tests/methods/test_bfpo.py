"""BFPO through the real stages: what it starts from, what moves, what the buffer adds, what is refused."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import pico
import small
from equipoise.data.plan import Plan
from equipoise.data.tokens import TokenTable
from equipoise.errors import DataError, DivergedError, SettingError
from equipoise.methods.align import Step, logps, prepared, use
from equipoise.methods.bfpo import bfpo
from equipoise.methods.run import Run
from equipoise.objectives.safety import bfpo as objective_bfpo
from equipoise.runs import _evaluated
from equipoise.stages import TrainStageConfig, model_input, train
from equipoise.store import DryStore, Store, manifest, using_store
from equipoise.train.offline import MetricsFile
from equipoise.types import Artefact, Pair
from small import trained_on, weights

TAU = 2.0
SELECTIVE = {"trainable": ("down_proj",), "learning_rate": 1e-3}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bfpo")
    pico.directory(folder / "base")
    rows = small.pku_rows(24)
    for index, row in enumerate(rows):
        row["is_response_0_safe"], row["is_response_1_safe"] = index % 2 == 0, index % 3 == 0
        row["safer_response_id"] = int(row["is_response_1_safe"] and not row["is_response_0_safe"])
    small.jsonl(folder / "pairs.jsonl", rows)
    helpful = [
        {"prompt": f"{w}?", "response_0": f"{w} yes", "response_1": "no", "better_response_id": i % 2}
        for i, w in enumerate(small.WORDS[:11])
    ]
    small.jsonl(folder / "buffer.jsonl", helpful)
    return folder


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def step(world, *, buffer=True, train=(), **settings):
    data = small.data(world / "pairs.jsonl", "pairs")
    second = small.data(world / "buffer.jsonl", "buffer")
    entries = tuple(entry.model_copy(update={"axis": "better"}) for entry in second.entries)
    second = type(second)(second.name, entries)
    chosen = use("bfpo", **{"tau": TAU, **settings})
    training = small.training(**{**SELECTIVE, **dict(train)})
    return Step(data, chosen, training, prefer="better", buffer=second if buffer else None)


def imitation(world, **train):
    return Step(small.data(world / "pairs.jsonl", "pairs"), use("sft"), small.training(**SELECTIVE), choose="safer")


def test_the_reference_is_the_model_that_imitates(world, base):
    made = bfpo(base, step(world), sft=imitation(world))
    inputs = trained_on(made.aligned)
    assert inputs["model"] == made.sft.id and trained_on(made.sft)["model"] == base.id
    data = prepared(base, step(world))
    assert inputs["reference"] == logps(made.sft, data, step(world)).id and inputs["data"] == data.id
    assert inputs["buffer"].startswith("buffer-") and inputs["buffer_reference"].startswith("reference-")
    summary = manifest(made.aligned)["summary"]
    assert (summary["rows"], summary["buffer_rows"]) == (24, 11)


def test_the_safer_answers_are_imitated(world, base):
    source = rows_of(world / "pairs.jsonl")
    wanted = {row["prompt"]: row[f"response_{row['safer_response_id']}"] for row in source}
    rows = rows_of(prepared(base, imitation(world)).path / "rows.jsonl")
    assert len(rows) == 24
    assert all(row["completion"][-1]["content"] == wanted[row["prompt"][0]["content"]] for row in rows)


def test_the_first_loss_is_that_of_both_streams(world, base):
    made = bfpo(base, step(world)).aligned
    data = prepared(base, step(world))
    with np.load(data.path / "columns.npz") as columns:
        first, second = columns["chosen_safe"], columns["rejected_safe"]
    batch = Plan(TokenTable(data.path).lengths, 0, 8, 3, 8192, max_steps=3).batch(0)
    labels = (1.5 * first - 0.5 * second - 0.5)[batch]
    assert {round(float(label), 3) for label in labels} == {0.5, 1, -1, -0.5}, "all four combinations are there"
    logged = small.metrics(made.path)[0]
    assert logged["loss"] == pytest.approx(((labels / TAU) ** 2).mean() + (0.5 / TAU) ** 2, abs=1e-4)
    assert logged["buffer/loss"] == pytest.approx((0.5 / TAU) ** 2, abs=1e-4)


def test_rewards_are_logged_by_what_is_safe_and_move_to_their_labels(world, base):
    train = {"max_steps": 24, "learning_rate": 5e-3, "trainable": None, "save_steps": 24}
    made = bfpo(base, step(world, tau=0.5, train=train)).aligned
    last = {}
    for logged in small.metrics(made.path):
        last |= logged  # a batch may lack a combination
    margins = {name: last[f"rewards/margins/{name}"] for name in ("safe_unsafe", "unsafe_safe")}
    assert margins["safe_unsafe"] > 0.1 > -0.1 > margins["unsafe_safe"]
    assert last["buffer/rewards/margins/safe_safe"] == pytest.approx(last["buffer/rewards/margins"])
    assert not any(name.startswith("buffer/") and "unsafe" in name for name in last)


def test_only_the_named_layers_move(world, base):
    made = bfpo(base, step(world), sft=imitation(world))
    start, middle, end = weights_of_base(world), weights(made.sft), weights(made.aligned)
    for before, after in ((start, middle), (middle, end)):
        moved = {name for name in after if not torch.equal(before[name], after[name])}
        assert moved == {name for name in after if "down_proj" in name} and len(moved) == 2


def weights_of_base(world):
    return load_file(world / "base" / "model.safetensors")


def test_a_run_without_a_buffer_has_the_inputs_it_always_had(world, base):
    made = bfpo(base, step(world, buffer=False)).aligned
    assert trained_on(made).keys() == {"model", "data", "reference"}
    assert "buffer_rows" not in manifest(made)["summary"]
    assert made.id != bfpo(base, step(world)).aligned.id


def test_a_run_with_a_buffer_that_was_cut_continues_bit_equal(world, tmp_path, monkeypatch):
    base = model_input(str(world / "base"))
    given = step(world, train={"max_steps": 5, "save_steps": 2})
    with using_store(Store(tmp_path / "whole")):
        whole = bfpo(base, given).aligned
    inner = MetricsFile.on_log

    def cut(self, args, state, control, logs=None, **kwargs):
        if state.global_step == 4:
            raise DivergedError("cut")
        inner(self, args, state, control, logs=logs, **kwargs)

    with using_store(Store(tmp_path / "cut")):
        with monkeypatch.context() as patch, pytest.raises(DivergedError, match="cut"):
            patch.setattr(MetricsFile, "on_log", cut)
            bfpo(base, given)
        continued = bfpo(base, given).aligned
    assert continued.id == whole.id and manifest(continued)["resumed"]
    assert "continuing from checkpoint-2" in (continued.path / "log.txt").read_text()
    one, other = weights(whole), weights(continued)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [m["loss"] for m in small.metrics(continued.path)] == [m["loss"] for m in small.metrics(whole.path)]


def test_two_launched_processes_equal_one_with_a_buffer(world, base, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    given = step(world)
    alone = bfpo(base, given).aligned
    found = {name: Artefact(id, id.rpartition("-")[0], world / "store" / id) for name, id in trained_on(alone).items()}
    launch = f"{sys.executable} -m torch.distributed.run --standalone --nproc_per_node=2"
    config = TrainStageConfig(objective=given.objective, train=given.train, launch=launch)
    with using_store(Store(tmp_path)):
        together = train(config, **{**found, "model": base})
    assert together.id == alone.id and manifest(together)["summary"]["devices"] == 2
    assert manifest(together)["summary"]["train_tokens"] == manifest(alone)["summary"]["train_tokens"]
    one, other = weights(alone), weights(together)
    assert all(torch.allclose(one[name], other[name], atol=1e-4) for name in one)
    losses = [[entry["loss"] for entry in small.metrics(made.path)] for made in (alone, together)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_tau_that_asks_for_too_much_is_mentioned(world, base, caplog):
    made = bfpo(base, step(world, tau=0.001, buffer=False, train={"max_steps": 1})).aligned
    assert "asks for margins of 500, 1000 nats" in (made.path / "log.txt").read_text()


# ---- refusals ------------------------------------------------------------------------------------------------------


def without_flags(world, path, keep=0):
    rows = rows_of(world / "pairs.jsonl")
    for row in rows[keep:]:
        del row["is_response_0_safe"], row["is_response_1_safe"]
    return small.jsonl(path, rows)


def test_missing_flags_are_refused_with_what_to_add(world, base, tmp_path):
    without_flags(world, tmp_path / "pairs.jsonl")
    small.jsonl(tmp_path / "buffer.jsonl", [])
    with pytest.raises(DataError, match=r"24 missing safety flag.*is_response_0_safe and is_response_1_safe"):
        bfpo(base, step(tmp_path, buffer=False))


def test_a_few_missing_flags_are_dropped_and_counted(world, base, tmp_path):
    without_flags(world, tmp_path / "pairs.jsonl", keep=23)
    data = prepared(base, step(tmp_path, buffer=False))
    assert manifest(data)["summary"]["dropped"] == {"missing safety flag": 1}


def test_an_unsafe_answer_in_the_buffer_is_refused(world, base, tmp_path):
    rows = rows_of(world / "buffer.jsonl")
    rows[3] |= {"is_response_0_safe": True, "is_response_1_safe": False}
    small.jsonl(tmp_path / "buffer.jsonl", rows)
    small.jsonl(tmp_path / "pairs.jsonl", rows_of(world / "pairs.jsonl"))
    with pytest.raises(DataError, match="buffer: 1 of 11 rows hold an answer flagged unsafe"):
        bfpo(base, step(tmp_path))


def by_safety(world, *, prefer="safer", **settings):
    chosen = use("bfpo", **{"tau": TAU, **settings})
    return Step(small.data(world / "pairs.jsonl", "pairs"), chosen, small.training(max_dropped=0.6), prefer=prefer)


@pytest.mark.parametrize("b1", [2.0, 3.0, 5.0])
def test_which_answer_is_the_more_helpful_does_not_matter_between_a_safe_and_an_unsafe_one(b1):
    safe, unsafe = torch.tensor([-3.0, -1.0, -2.0]), torch.tensor([-1.5, -4.5, -2.0])
    reference, yes, no = torch.full((3,), -2.0), torch.ones(3), torch.zeros(3)

    def losses(alpha):
        settings = {"tau": 0.5, "b1": b1, "alpha": alpha}
        one = objective_bfpo(Pair(safe, unsafe), Pair(reference, reference), Pair(yes, no), **settings)
        other = objective_bfpo(Pair(unsafe, safe), Pair(reference, reference), Pair(no, yes), **settings)
        return one, other

    assert torch.allclose(*losses(0.5))
    assert not any(torch.isclose(*pair) for pair in zip(*losses(0.4), strict=True))


def test_a_step_by_safety_needs_the_alpha_for_which_helpfulness_does_not_matter(world, base):
    with pytest.raises(SettingError, match=r"alpha is 0, but the pairs are ordered by safety alone"):
        bfpo(base, by_safety(world, alpha=0.0))
    with pytest.raises(SettingError, match="objective bfpo and prefer better"):
        bfpo(base, by_safety(world, prefer="better_if_safe"))


def test_a_step_by_safety_takes_pairs_of_a_safe_and_an_unsafe_answer(world, base):
    data = prepared(base, by_safety(world))
    rows = rows_of(data.path / "rows.jsonl")
    assert [(row["chosen_safe"], row["rejected_safe"]) for row in rows] == [(True, False)] * 12
    assert manifest(data)["summary"]["dropped"] == {"missing order": 12}


# ---- configs -------------------------------------------------------------------------------------------------------


def config(world, **changes):
    data = {"pairs": str(world / "pairs.jsonl"), "buffer": {"path": str(world / "buffer.jsonl"), "axis": "better"}}
    return {"method": "bfpo", "model_name_or_path": str(world / "base"), "data": data, "max_length": 200} | changes


def read(world, **changes):
    return Run.read(config(world, **changes), base_dir=world)


def test_a_config_gives_both_steps(world):
    run = read(world, sft={"learning_rate": 1e-3})
    run.check_data()
    sft, last = run.steps
    assert (sft.objective.objective, sft.choose, sft.train.learning_rate) == ("sft", "safer", 1e-3)
    assert last.objective.settings == {"tau": 0.01, "b1": 3.0, "alpha": 0.5}
    assert last.prefer == "better" and last.buffer.name == "buffer" and last.train.trainable == ("down_proj",)


def test_ablations_are_settings(world, tmp_path):
    no_buffer = read(world, data={**config(world)["data"], "buffer": None})
    assert no_buffer.steps[-1].buffer is None
    assert read(world, alpha=0).steps[-1].objective.settings["alpha"] == 0
    assert read(world, trainable=None).steps[-1].train.trainable is None
    (red_team,) = read(world, sft=False, data={"pairs": str(world / "pairs.jsonl")}).steps
    assert red_team.objective.objective == "bfpo" and red_team.buffer is None
    with using_store(DryStore(tmp_path)) as store:
        made = read(world).execute()
    assert [one.label for one in made] == ["sft(pairs)", "bfpo(pairs, 0.01)"]
    assert [stage for stage, _, _ in store.planned] == [
        "prepare", "train", "prepare", "buffer", "reference", "reference", "train",
    ]  # fmt: skip


def test_chat_is_imitated_beside_the_safer_answers(world, tmp_path):
    chat = small.jsonl(tmp_path / "chat.jsonl", [{"prompt": "birch?", "completion": "a tree"}])
    run = read(world, data={**config(world)["data"], "chat": str(chat)})
    run.check_data()
    assert [len(one.data.entries) for one in run.steps] == [2, 1]
    with using_store(Store(tmp_path / "store")):
        rows = rows_of(prepared(run.base, run.steps[0]).path / "rows.jsonl")
    assert len(rows) == 25 and rows[-1]["completion"][-1]["content"] == "a tree"


def test_pairs_by_safety_alone_with_flags_from_their_order(world, tmp_path):
    told = [{"prompt": f"{w}?", "chosen": f"{w} yes", "rejected": "no"} for w in small.WORDS[:20]]
    entry = {"path": str(small.jsonl(tmp_path / "harmless.jsonl", told)), "axis": "safer"}
    data = {**config(world)["data"], "pairs": {**entry, "flags": "order"}}
    run = read(world, data=data, holdout=0.3)
    run.check_data()
    assert run.steps[-1].prefer == "safer"
    assert {name: step.prefer for name, step in _evaluated(run.steps).items()} == {"pairs": "safer", "buffer": "better"}
    with using_store(Store(tmp_path / "store")):
        rows = rows_of(prepared(run.base, run.steps[-1]).path / "rows.jsonl")
    assert {(row["chosen_safe"], row["rejected_safe"]) for row in rows} == {(True, False)}
    with pytest.raises(SettingError, match="needs to know which answers are safe"):
        read(world, data={"pairs": entry}).check_data()
    with pytest.raises(SettingError, match=r"alpha is 0\.4, but the pairs are ordered by safety alone"):
        read(world, data=data, alpha=0.4)
    with pytest.raises(SettingError, match="the entries of pairs are ordered by different axes"):
        read(world, data={"pairs": [str(world / "pairs.jsonl"), {**entry, "flags": "order"}]})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": {"helpful": "pairs.jsonl"}}, "bfpo has no role 'helpful'"),
        ({"data": {"buffer": "pairs.jsonl"}}, "bfpo needs the role pairs"),
        ({"data": {"pairs": "pairs.jsonl", "chat": "pairs.jsonl"}, "sft": "off"}, "chat is imitated in the sft stage"),
        ({"sft": True}, "sft: .* got 'on'"),
        ({"sft": {"objective": "dpo"}}, "sft is supervised"),
        ({"tau": 0}, "tau must be positive"),
        ({"b1": 1}, "b1 must be larger than 1"),
        ({"method": "dpo", "objective": "bfpo", "data": {"helpful": "pairs.jsonl"}}, "use method: bfpo, got dpo"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(world, changes, sentence):
    with pytest.raises(SettingError, match=sentence):
        read(world, **changes)


def test_data_that_cannot_feed_it_are_refused_before_anything_loads(world, tmp_path):
    flagless = without_flags(world, tmp_path / "flagless.jsonl")
    with pytest.raises(SettingError, match="bfpo needs to know which answers are safe, which the first 24 rows"):
        read(world, data={"pairs": str(flagless)}).check_data()
    unsafe = {"path": str(world / "pairs.jsonl"), "axis": "better"}
    with pytest.raises(DataError, match=r"buffer.*hold an answer flagged unsafe"):
        read(world, data={"pairs": str(world / "pairs.jsonl"), "buffer": unsafe}).check_data()
    unordered = {"path": str(world / "pairs.jsonl"), "axis": "better"}
    with pytest.raises(SettingError, match="choose: safer imitates the answer that safer_response_id names"):
        read(world, data={"pairs": unordered}).check_data()
