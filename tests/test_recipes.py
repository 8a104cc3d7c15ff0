"""Every recipe is a valid config, the published ones hold the published settings, and the docs show what works.

Nothing here reaches the network or a model: reading a config must not need either.
"""

from __future__ import annotations

import contextlib
import re
import socket
from pathlib import Path

import pytest
import yaml

from equipoise.config import read_yaml
from equipoise.errors import SettingError
from equipoise.evaluating_settings import EvaluateConfig
from equipoise.methods.asked import prompt_uses
from equipoise.methods.multiplier import NotYet
from equipoise.methods.run import Run
from equipoise.objectives import OBJECTIVES
from equipoise.runs import load_run
from equipoise.store import DryStore, using_store

ROOT = Path(__file__).resolve().parents[1]
RECIPES = [path for path in sorted((ROOT / "recipes").rglob("*.yaml")) if "method" in read_yaml(path)]
PAPERS = sorted((ROOT / "recipes" / "papers").glob("*.yaml"))
SACPO = [path for path in PAPERS if read_yaml(path)["method"] == "sacpo"]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("reading a recipe must not open a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(ROOT)  # where the paths of the examples lead


def read(name: str, *assignments: str) -> Run:
    return load_run(ROOT / "recipes" / name, list(assignments))


def planned(run: Run, tmp_path: Path) -> list[tuple[str, str]]:
    """(stage, address) of everything a run would make."""
    store = DryStore(tmp_path)
    with using_store(store), contextlib.suppress(NotYet):  # what comes behind is decided by what a stage finds
        run.execute()
    return [(stage, name) for stage, name, _ in store.planned]


def test_there_are_recipes_of_both_kinds():
    assert len(PAPERS) >= 6 and len(RECIPES) > len(PAPERS)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_recipes_are_read(path):
    run = load_run(path, [])
    assert run.steps or run.config.own_answers
    assert run.config.output_dir.parts[0] == "runs"


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_misspelt_key_in_a_recipe_is_refused(path):
    with pytest.raises(SettingError, match="did you mean 'learning_rate'"):
        load_run(path, ["learning_rte=1.0"])


@pytest.mark.parametrize("path", SACPO, ids=lambda p: p.stem)
def test_published_settings_that_all_runs_share(path):
    run = load_run(path, [])
    assert run.base_name == "PKU-Alignment/alpaca-7b-reproduced"
    order = ("safer", "better") if path.stem == "sacpo-safe-first" else ("better", "safer")
    for step, prefer in zip(run.steps, order, strict=True):
        assert step.prefer == prefer
        (entry,) = step.data.entries
        assert (entry.path, entry.split, entry.axis) == ("PKU-Alignment/PKU-SafeRLHF-30K", "train", prefer)
        train = step.train
        assert (train.num_train_epochs, train.max_length, train.max_prompt_length) == (3, 512, 128)
        assert (train.learning_rate, train.lr_scheduler_type, train.warmup_ratio) == (2e-5, "cosine", 0.03)
        assert (train.truncation, train.seed, train.dtype) == ("keep_end", 0, "bfloat16")
        assert (train.chat_template, train.gradient_checkpointing, train.use_peft) == ("beaver", True, False)


@pytest.mark.parametrize(
    ("name", "objectives", "betas", "batches", "mix"),
    [
        ("sacpo-dpo-dpo", ["dpo", "dpo"], [0.1, 0.025], [256, 64], ()),
        ("sacpo-dpo-kto", ["dpo", "kto"], [0.1, 0.01], [256, 64], ()),
        ("sacpo-kto-dpo", ["kto", "dpo"], [0.1, 0.025], [256, 64], ()),
        ("sacpo-safe-first", ["dpo", "dpo"], [0.01, 0.025], [256, 64], ()),
        ("p-sacpo", ["dpo", "dpo"], [0.1, 0.01], [256, 64], (0.25, 0.5, 0.75)),
        ("naive-merge", ["dpo", "dpo"], [0.1, 0.01], [256, 256], (0.25, 0.5, 0.75)),
    ],
)
def test_published_settings_of_each_run(name, objectives, betas, batches, mix):
    run = read(f"papers/{name}.yaml")
    assert [step.objective.objective for step in run.steps] == objectives
    assert [step.objective.settings["beta"] for step in run.steps] == betas
    assert [step.train.global_batch_size for step in run.steps] == batches
    assert run.config.mix == mix
    assert run.config.naive is (name == "naive-merge")


def test_a_sweep_over_the_second_beta_computes_the_first_step_once(tmp_path):
    plans = [planned(read("papers/sacpo-dpo-dpo.yaml", f"second.beta={b}"), tmp_path) for b in (0.01, 0.025, 0.05, 0.1)]
    assert [[stage for stage, _ in plan] for plan in plans] == [["prepare", "reference", "train"] * 2] * 4
    first = {name for plan in plans for stage, name in plan[:3]}
    assert len(first) == 3
    assert len({plan[4] for plan in plans}) == 1  # the reference of step 2 is step 1, whatever beta is
    assert len({plan[5] for plan in plans}) == 4


def test_published_runs_share_their_first_step_and_p_sacpo_merges_three_times(tmp_path):
    direct = planned(read("papers/sacpo-dpo-dpo.yaml", "second.beta=0.01"), tmp_path)
    merged = planned(read("papers/p-sacpo.yaml"), tmp_path)
    assert merged[:6] == direct
    assert [stage for stage, _ in merged[6:]] == ["merge"] * 3
    assert planned(read("papers/sacpo-dpo-kto.yaml"), tmp_path)[:3] == direct[:3]


def test_the_naive_baseline_trains_its_second_model_from_the_base(tmp_path):
    stages = [stage for stage, _ in planned(read("papers/naive-merge.yaml"), tmp_path)]
    assert stages.count("merge") == 6 and stages.count("train") == 3
    assert stages.count("prepare") == 2  # rows and tokens are the same for both ways of using the safety data


def test_published_settings_of_the_controllable_run(tmp_path):
    run = read("papers/cpo-3h.yaml")
    cpsft, cdpo = run.steps
    assert [entry.path for entry in cdpo.data.entries] == ["openbmb/UltraFeedback", "openbmb/UltraSafety"]
    assert (cpsft.objective.objective, cdpo.objective.settings["beta"]) == ("sft", 0.1)
    assert [step.train.global_batch_size for step in run.steps] == [256, 32]
    assert [step.train.learning_rate for step in run.steps] == [1e-5, 5e-5]
    assert [(step.train.use_peft, step.train.max_length) for step in run.steps] == [(False, 8192), (True, 1024)]
    assert (cdpo.train.lora_r, cdpo.train.lora_alpha, cdpo.train.num_train_epochs) == (64, 64, 3)
    assert [step.train.load_in_4bit for step in run.steps] == [False, True]
    asked = cdpo.conditions
    assert [budget.pairs for budget in asked.budgets] == [12000] * 3 + [3000] * 4 + [24000, 8966]
    assert [(o.name, o.low, o.high) for o in asked.objectives] == [
        ("helpfulness", 1, 5),
        ("honesty", 1, 5),
        ("harmlessness", 0, 1),
    ]
    assert (asked.draw, asked.untagged_top, asked.ask_for_harm, asked.temperature) == ("own", 1, False, None)
    harmful = yaml.safe_load((ROOT / "recipes" / "papers" / "cpo-3h.yaml").read_text())
    harmful["budgets"].append({"control": {"harmlessness": 0}, "pairs": 8966})
    with pytest.raises(SettingError, match="ask_for_harm: true"):
        Run.read(harmful, base_dir=ROOT)
    assert [stage for stage, _ in planned(run, tmp_path)] == ["prepare", "train", "prepare", "reference", "train"]


def test_published_settings_of_bfpo(tmp_path):
    run = read("papers/bfpo.yaml")
    sft, step = run.steps
    assert run.base_name == "mistralai/Mistral-7B-v0.1"
    assert step.objective.settings == {"tau": 0.01, "b1": 3, "alpha": 0.5}
    assert (step.prefer, step.buffer.entries[0].path) == ("better", "HuggingFaceH4/ultrafeedback_binarized")
    assert [entry.path for entry in sft.data.entries] == [
        "PKU-Alignment/PKU-SafeRLHF",
        "HuggingFaceH4/ultrachat_200k",
    ]
    assert (sft.choose, sft.train.max_length, step.train.max_length, step.train.max_prompt_length) == (
        "safer", 2048, 1024, 512,
    )  # fmt: skip
    for train in (sft.train, step.train):
        assert (train.learning_rate, train.lr_scheduler_type, train.warmup_ratio) == (5e-7, "cosine", 0.1)
        assert (train.num_train_epochs, train.global_batch_size, train.trainable) == (1, 32, ("down_proj",))
    stages = [stage for stage, _ in planned(run, tmp_path)]
    assert stages == ["prepare", "train", "prepare", "buffer", "reference", "reference", "train"]


def test_the_red_teaming_variant_of_bfpo_has_no_other_stage(tmp_path):
    run = read("papers/bfpo-zephyr.yaml")
    (step,) = run.steps
    assert run.base_name == "HuggingFaceH4/zephyr-7b-beta" and step.buffer is None
    assert (step.train.global_batch_size, step.train.learning_rate, step.train.trainable) == (16, 5e-7, ("down_proj",))
    assert [stage for stage, _ in planned(run, tmp_path)] == ["prepare", "reference", "train"]


def test_ablations_of_bfpo_are_settings_of_its_recipe(tmp_path):
    whole = planned(read("papers/bfpo.yaml"), tmp_path)
    no_buffer = planned(read("papers/bfpo.yaml", "data.buffer=null"), tmp_path)
    assert [stage for stage, _ in no_buffer] == ["prepare", "train", "prepare", "reference", "train"]
    assert no_buffer[:3] == whole[:3], "what does not change is computed once"
    theorem = planned(read("papers/bfpo.yaml", "alpha=0"), tmp_path)
    assert theorem[:-1] == whole[:-1] and theorem[-1] != whole[-1]
    assert read("papers/bfpo.yaml", "trainable=null").steps[-1].train.trainable is None


def test_published_settings_of_modpo(tmp_path):
    run = read("papers/modpo.yaml")
    margin, step = run.steps
    assert (margin.prefer, step.prefer) == ("safer", "better")
    assert [s.objective.settings["beta"] for s in run.steps] == [0.1, 0.1]
    assert run.config.weights == (0.1, 0.5, 0.9)
    train = step.train
    assert (train.lora_r, train.lora_alpha, train.learning_rate, train.global_batch_size) == (64, 1, 5e-4, 96)
    stages = [stage for stage, _ in planned(run, tmp_path)]
    assert stages.count("train") == 4, "the margin's model, and one for each weight"


@pytest.mark.parametrize(
    ("name", "epochs", "multiplier", "rate", "limit", "base"),
    [
        ("v1", 3, 1.0, 0.01, 0.0, "alpaca-7b-reproduced"),
        ("v2", 3, 0.5, 0.04, -3.0, "beaver-7b-v1.0"),
        ("v3", 4, 1.0, 0.04, -3.0, "beaver-7b-v2.0"),
    ],
)
def test_published_settings_of_the_beavers(name, epochs, multiplier, rate, limit, base):
    run = read(f"papers/beaver-{name}.yaml")
    assert run.base_name == f"PKU-Alignment/{base}"
    ppo = run.config.kept_to()
    assert (ppo.num_train_epochs, ppo.multiplier, ppo.multiplier_rate, ppo.limit) == (epochs, multiplier, rate, limit)
    assert (ppo.learning_rate, ppo.critic_learning_rate, ppo.clip_range) == (9.65e-6, 5e-6, 0.1)
    assert (ppo.kl, ppo.kl_coeff, ppo.ptx_coeff, ppo.penalty) == ("split", 0.05, 16, "cost")
    assert (ppo.weight_decay, ppo.adam_beta1, ppo.adam_beta2, ppo.critic_weight_decay) == (0.01, 0.9, 0.95, 0)
    assert (ppo.lr_scheduler_type, ppo.critic_lr_scheduler_type, ppo.warmup_ratio) == ("cosine", "constant", 0.03)
    assert (ppo.clip_range_score, ppo.clip_range_value, ppo.gamma, ppo.gae_lambda) == (50, 5, 1, 0.95)
    assert (ppo.controller, ppo.multiplier_max, ppo.multiplier_window) == ("log_sgd", 5, 8 * 128)
    assert (ppo.global_batch_size, ppo.rollouts, ppo.update_iters, ppo.max_length) == (128, 128, 1, 512)
    assert (ppo.chat_template, ppo.use_peft, ppo.advantage) == ("beaver", True, "gae")
    (imitated,) = [step for step in run.steps if step.data.name == "ptx"]
    assert imitated.data.entries[0].path == "tatsu-lab/alpaca" and imitated.train.max_length == 512


def test_the_first_beaver_trains_its_scorers_and_the_later_ones_take_those_that_were_published(tmp_path):
    first = read("papers/beaver-v1.yaml")
    reward, cost = [step for step in first.steps if step.data.name == "pairs"]
    assert (reward.objective.objective, cost.objective.objective) == ("bradley_terry", "cost")
    assert (reward.prefer, cost.prefer) == ("better", "safer")
    for step in (reward, cost):
        train = step.train
        assert (train.num_train_epochs, train.learning_rate, train.weight_decay) == (2, 2e-5, 0.1)
        assert (train.lr_scheduler_type, train.adam_beta2, step.objective.settings["regularization"]) == (
            "cosine", 0.95, 0.001,
        )  # fmt: skip
    policy = ["drawn", "generate", "score", "score", "dual", "prepare", "ppo"]
    stages = [stage for stage, _ in planned(first, tmp_path)]
    assert stages == ["asked", "fitting", *("prepare", "train") * 2, *policy]
    for name in ("v2", "v3"):
        later = read(f"papers/beaver-{name}.yaml")
        assert [stage for stage, _ in planned(later, tmp_path)] == ["asked", "fitting", *policy]
        for head, use in (("reward", later.config.reward), ("cost", later.config.cost)):
            assert use.model == f"PKU-Alignment/beaver-7b-{name}.0-{head}" and use.scale == 1


def test_safe_rlhf_on_one_device_keeps_everything_over_one_base():
    run = read("examples/safe-rlhf-8b.yaml")
    ppo = run.config.kept_to()
    assert ppo.use_peft and (ppo.lora_r, ppo.lora_alpha) == (16, 32)
    assert all(step.train.use_peft and step.train.lora_r == 16 for step in run.steps)
    assert (ppo.unsafe_rate, ppo.on, ppo.penalty, ppo.kl) == (0.02, "harmful", "unsafe", "reward")
    assert (run.config.rounds, run.config.annotators.files, run.config.multiplier) == (2, "data/labels.jsonl", "auto")


def test_published_settings_of_iteralign():
    paper, released = (read(f"papers/iteralign{name}.yaml").config for name in ("", "-released"))
    for config in (paper, released):
        (entry,) = prompt_uses(config.prompts, ROOT)["harmful"].entries
        assert (entry.path, entry.subfolder) == ("Anthropic/hh-rlhf", "red-team-attempts")
        assert (config.batch, config.rubric, config.accumulate, config.replay) == (20, "harm_answer", False, 0)
        train = config.train_config
        assert (train.learning_rate, train.num_train_epochs, train.use_peft) == (2e-6, 3, False)
        assert (train.lr_scheduler_type, train.warmup_ratio, train.weight_decay) == ("cosine", 0.03, 0)
        assert (config.oracle.model, config.oracle.temperature) == ("gpt-3.5-turbo", 0)
        assert (config.oracle.base_url, config.oracle.key_env) == ("https://api.openai.com/v1", "OPENAI_API_KEY")
    assert paper.proposer is not None and paper.proposer.model == "gpt-4" and released.proposer is None
    assert (paper.filter, paper.rules, paper.chain_of_utterances) == (True, "numbered", True)
    assert (released.filter, released.rules, released.chain_of_utterances) == (False, "last_paragraph", False)
    assert (paper.train_config.global_batch_size, paper.train_config.max_length) == (2, 512)
    assert (released.train_config.global_batch_size, released.train_config.max_length) == (8, 4096)
    drawn, greedy = paper.how().generate.sampling, released.how().generate.sampling
    assert (drawn.temperature, drawn.top_p) == (0.7, 0.9)
    assert (greedy.temperature, greedy.max_new_tokens, greedy.stop) == (0, 500, ("\n\n",))


def test_an_evaluation_is_a_valid_config():
    config = EvaluateConfig.make(read_yaml(ROOT / "recipes" / "examples" / "evaluate-8b.yaml"))
    assert list(config.models) == ["base", "aligned"] and config.evaluate.shares()["harmful"] == 0.3
    assert [grader.measured for grader in config.graders] == ["unsafe_rate", "unsafe_rate", "over_refusal"]
    uses = config.evaluate.prompts(ROOT)
    assert uses["harmful"].entries[0].path == "declare-lab/CategoricalHarmfulQA"
    assert config.evaluate.questions("hhh", ROOT) is not None


def test_iteralign_on_one_device_has_a_budget_replays_and_keeps_its_judges_replies_by_name():
    config = read("examples/iteralign-8b.yaml").config
    assert config.use_peft and config.generate.serve is None, "adapters are not served"
    assert config.oracle.identity is not None and config.oracle.budget.requests == 20000
    assert config.replay == 2 and {"benign", "borderline"} <= set(config.prompts)
    with pytest.raises(SettingError, match="answers with whole models, and with use_peft"):
        read("examples/iteralign-8b.yaml", "generate.serve=vllm serve {model} --port {port}")


def test_a_run_may_differ_from_its_recipe_on_the_command_line():
    run = read("papers/sacpo-dpo-kto.yaml", "second.undesirable_weight=0.8", "launch=accelerate launch --config_file a")
    assert run.steps[1].objective.settings == {"beta": 0.01, "desirable_weight": 1.0, "undesirable_weight": 0.8}
    assert run.steps[0].launch == "accelerate launch --config_file a"


def test_constraints_may_be_three_and_each_step_may_have_its_own_settings():
    steps = read("examples/three-constraints.yaml").steps
    assert [step.data.name for step in steps] == ["helpful", "harmless", "private"]
    assert [step.prefer for step in steps] == ["better", "safer", "safer"]
    assert [step.objective.objective for step in steps] == ["dpo", "dpo", "ipo"]
    assert [step.train.learning_rate for step in steps] == [1e-5, 1e-5, 5e-6]


def test_an_objective_and_a_method_of_ones_own(tmp_path):
    (step,) = read("examples/my-objective.yaml").steps
    assert step.objective.objective == "recipes/examples/my_objective.py:length_dpo"
    assert step.objective.settings == {"beta": 0.1, "alpha": 0.01} and len(step.objective.source) == 16
    run = read("examples/my-method.yaml", "ratio=0.5")
    assert [(s.prefer, s.objective.settings["beta"]) for s in run.steps] == [("better", 0.1), ("safer", 0.05)]
    stages = [stage for stage, _ in planned(run, tmp_path)]
    assert stages == ["prepare", "reference", "train"] * 2 + ["merge"]


def test_a_role_may_have_several_entries():
    helpful, safe = read("examples/two-datasets.yaml").steps
    paths = [entry.path for entry in helpful.data.entries]
    assert paths == ["data/support_pairs.csv", "HuggingFaceH4/ultrafeedback_binarized"]
    assert safe.objective.settings["undesirable_weight"] == 3.0 and safe.prefer == "safer"


def test_runs_on_real_data_share_the_base_that_they_train(monkeypatch, tmp_path, shared_data):
    if shared_data.resolve() != (ROOT.parent / "shared" / "data").resolve():
        pytest.skip("recipes look for the public data sets in ../shared/data")
    monkeypatch.chdir(ROOT)
    plans = [
        planned(read(f"examples/real-{name}.yaml"), tmp_path)
        for name in ("small", "cpo", "bfpo", "reward", "cost", "safe-rlhf", "iteralign")
    ]
    assert [stage for stage, _ in plans[0][:5]] == ["fresh", "prepare", "train", "prepare", "train"]
    assert all(plan[:5] == plans[0][:5] for plan in plans)
    without = planned(read("examples/real-bfpo.yaml", "data.buffer=null"), tmp_path)
    assert without[:8] == plans[2][:8] and without[7][0] == "prepare"


def test_the_config_in_the_readme_is_the_lora_recipe():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    shown, recipe = yaml.safe_load(block), read_yaml(ROOT / "recipes" / "examples" / "lora-8b.yaml")
    assert shown.items() <= recipe.items()
    assert len(Run.read(shown, base_dir=ROOT).steps) == 2


def test_every_objective_has_its_line_in_the_index_of_papers():
    text = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    assert [name for name in OBJECTIVES if f"`objectives.{name}`" not in text] == []


def test_every_module_has_its_line_in_the_tree_of_the_architecture():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = text[text.index("src/equipoise/\n") : text.index("benchmarks/")]
    room, listed = "", set()
    for line in tree.splitlines()[1:]:
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        if name.endswith("/"):
            room = name
        else:
            listed.add(room + name if indent == 4 else name)
    source = ROOT / "src" / "equipoise"
    plain = {p.relative_to(source).as_posix() for p in source.rglob("*.py")}
    listed -= {name for name in listed if name.endswith("__init__.py")}
    assert listed == {name for name in plain if not name.endswith("__init__.py")}


def test_links_between_documents_lead_somewhere():
    broken = []
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
            image = target.endswith(".png")  # pictures are made by a run
            if "://" not in target and not image and not (path.parent / target).exists():
                broken.append(f"{path.name}: {target}")
    assert not broken, broken
