"""Finished models as plain files: which model is meant, what is written, what the card says, what a kill leaves."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import pico
import small
from equipoise.carding import Carded, card_for
from equipoise.chosen_model import choose_model
from equipoise.errors import BusyError, DataError, SettingError
from equipoise.evaluate import same_answers
from equipoise.evaluate.lineage import evaluation_prompts, lineage_of
from equipoise.evaluate.model_card import front_of, render_card, said_of
from equipoise.exporting import Export, export, whole_or_not_at_all
from equipoise.methods.run import Run
from equipoise.runs import execute
from equipoise.store import LOCK, Store, locked, using_store

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base, an adapter over it, and a run of SACPO with two models and their results."""
    folder = tmp_path_factory.mktemp("exporting")
    base = pico.directory(folder / "base")
    (base / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n", encoding="utf-8")
    (folder / "sets").mkdir()
    small.jsonl(folder / "sets" / "pku.jsonl", small.pku_rows(24))
    (folder / "sets" / "SOURCE.txt").write_text("what: words\nlicence of the data: CC-BY-4.0\n", encoding="utf-8")
    adapter(base, folder / "adapter", std=0.3)
    settings = {
        "method": "sacpo",
        "model_name_or_path": str(base),
        "data": {role: {"path": str(folder / "sets" / "pku.jsonl")} for role in ("helpful", "safe")},
        "output_dir": str(folder / "run"),
        "max_steps": 2,
        "global_batch_size": 8,
        "max_length": 200,
        "learning_rate": 1e-2,
        "holdout": 0.25,
    }
    with using_store(Store(folder / "store")):
        execute(Run.read(settings, base_dir=folder), say=lambda line: None)
    return folder


@pytest.fixture(autouse=True)
def _store(world):
    with using_store(Store(world / "store")):
        yield


def adapter(base, out, *, std):
    """A LoRA adapter with random factors; it brings no tokenizer of its own."""
    model = AutoModelForCausalLM.from_pretrained(base)
    given = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for name, parameter in given.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=std)
    given.save_pretrained(out)


def exported(path, to, **asked):
    """Export, and return the directory and what was said."""
    lines = []
    return export(Export(path, to, **asked), say=lines.append), lines


def front(folder):
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def plain_files(folder):
    assert all(path.is_file() and not path.is_symlink() for path in folder.iterdir())
    return {path.name for path in folder.iterdir()}


# ---- which model ---------------------------------------------------------------------------------------------------


def test_a_model_of_a_run_goes_by_its_number_its_label_and_the_name_of_its_link(world):
    links = sorted(path.name for path in (world / "run").iterdir() if path.is_symlink())
    by_number = choose_model(world / "run", "2")
    assert by_number.label == "step 2: dpo(safe, 0.025)" or by_number.label.startswith("step 2")
    assert choose_model(world / "run", by_number.label) == by_number == choose_model(world / "run", links[1])
    assert choose_model(world / "run" / links[1]).artefact == by_number.artefact
    assert choose_model(by_number.artefact).folder == by_number.folder


def test_which_of_several_models_must_be_said(world):
    with pytest.raises(SettingError, match=r"has 2 models: say which with --model \(1 or 1-step-1"):
        choose_model(world / "run")
    with pytest.raises(SettingError, match=r"--model 3: .* has no such model"):
        choose_model(world / "run", "3")
    with pytest.raises(SettingError, match=r"--model 1: .* is one model, not the folder of a run"):
        choose_model(world / "base", "1")


def test_the_model_that_was_chosen_on_select_is_the_default(world, tmp_path):
    document = json.loads((world / "run" / "results.json").read_text())
    document["results"][2]["chosen"] = True
    (tmp_path / "results.json").write_text(json.dumps(document))
    found = choose_model(tmp_path)
    assert found.artefact.name == document["results"][2]["model"] and found.label == document["results"][2]["label"]


def test_what_is_no_model_is_refused(world, tmp_path):
    (prepared,) = list((world / "store").glob("prepare-*"))[:1]
    with pytest.raises(DataError, match="holds no model: a stage 'prepare' leaves none"):
        choose_model(prepared)
    with pytest.raises(DataError, match="is not an artefact"):
        choose_model(tmp_path)
    with pytest.raises(DataError, match=r"there is no train-0123, neither as a path nor in the store .*/store$"):
        choose_model(Path("train-0123"))


# ---- what is written -----------------------------------------------------------------------------------------------


def test_a_whole_model_is_copied_and_links_become_files(world, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in (world / "base").iterdir():
        (linked / file.name).symlink_to(file)
    out, said = exported(linked, tmp_path / "out")
    assert plain_files(out) >= {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "README.md",
    }
    assert (out / "model.safetensors").read_bytes() == (world / "base" / "model.safetensors").read_bytes()
    assert said[0].startswith("8 of 8 greedy answers are equal before and after, on 8 harmless prompts")
    assert AutoTokenizer.from_pretrained(out).chat_template == pico.TEMPLATE


def test_weights_of_another_type_are_rounded_once(world, tmp_path):
    out, said = exported(world / "base", tmp_path / "out", dtype="bfloat16")
    before, after = (load_file(folder / "model.safetensors") for folder in (world / "base", out))
    assert all(torch.equal(after[name], tensor.to(torch.bfloat16)) for name, tensor in before.items())
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.bfloat16
    assert "the largest difference of a token's log-probability is 0.0" in said[0]


def test_an_adapter_needs_to_be_told_which_way(world, tmp_path):
    with pytest.raises(SettingError, match="say --adapter to export it as it is, or --merge"):
        exported(world / "adapter", tmp_path / "out")
    with pytest.raises(SettingError, match="not both"):
        exported(world / "adapter", tmp_path / "out", adapter=True, merge=True)
    with pytest.raises(SettingError, match=r"--merge: .* is a whole model"):
        exported(world / "base", tmp_path / "out", merge=True)
    with pytest.raises(SettingError, match="an adapter is exported as it is"):
        exported(world / "adapter", tmp_path / "out", adapter=True, dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_keeps_the_name_of_its_base(world, tmp_path):
    out, _ = exported(world / "adapter", tmp_path / "out", adapter=True)
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(world / "base")
    assert "adapter_model.safetensors" in plain_files(out) and front(out)["library_name"] == "peft"


def test_a_merge_is_the_base_with_the_adapter_added(world, tmp_path):
    out, said = exported(world / "adapter", tmp_path / "out", merge=True)
    assert "adapter_config.json" not in plain_files(out) and {
        "tokenizer.json",
        "generation_config.json",
    } <= plain_files(out)
    base, merged = (load_file(folder / "model.safetensors") for folder in (world / "base", out))
    factors = load_file(world / "adapter" / "adapter_model.safetensors")
    layer = "model.layers.0.self_attn.q_proj"
    delta = (
        2
        * factors[f"base_model.{'model.' + layer}.lora_B.weight"]
        @ factors[f"base_model.{'model.' + layer}.lora_A.weight"]
    )
    torch.testing.assert_close(merged[f"{layer}.weight"], base[f"{layer}.weight"] + delta)
    assert torch.equal(merged["model.layers.0.mlp.up_proj.weight"], base["model.layers.0.mlp.up_proj.weight"])
    with_adapter = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(world / "base"), world / "adapter")
    ids = torch.tensor([[2, 40, 41, 42]])
    torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(out)(ids).logits, with_adapter(ids).logits)
    assert "greedy answers are equal before and after" in said[0]


# ---- refusals, kills -----------------------------------------------------------------------------------------------


def test_a_directory_that_is_there_stays_as_it_is(world, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(SettingError, match="is there already"):
        exported(world / "base", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_model_that_answers_otherwise_is_not_exported(world, tmp_path, monkeypatch):
    monkeypatch.setitem(same_answers.TOLERANCE, "bfloat16", 1e-9)
    with pytest.raises(DataError, match="expected at most 1e-09: nothing was written"):
        exported(world / "base", tmp_path / "out", dtype="bfloat16")
    assert list(tmp_path.iterdir()) == []
    out, said = exported(world / "base", tmp_path / "out", dtype="bfloat16", allow_differences=True)
    assert "more than is allowed" in said[0] and "more than is allowed" in (out / "README.md").read_text()


def test_weights_that_changed_on_the_way_are_noticed(world, tmp_path):
    wrong = tmp_path / "wrong"
    pico.directory(wrong)
    weights = load_file(wrong / "model.safetensors")
    save_file({k: -v for k, v in weights.items()}, wrong / "model.safetensors", metadata={"format": "pt"})
    asked = same_answers.harmless_prompts()
    found = same_answers.compare(world / "base", wrong, asked, dtype="float32", same=True, known=False)
    assert not found.passes and found.equal < 8
    assert not same_answers.compare(world / "base", wrong, asked, dtype="bfloat16", same=False, known=False).passes


def test_an_interrupt_leaves_nothing(world, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        assert (tmp_path / ".out.partial" / "model.safetensors").is_file()
        raise KeyboardInterrupt

    monkeypatch.setattr(same_answers, "compare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        exported(world / "base", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_replaced(world, tmp_path):
    (tmp_path / ".out.partial" / "old").mkdir(parents=True)
    (tmp_path / ".out.partial" / "model.safetensors").write_bytes(b"half")
    out, _ = exported(world / "base", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and "old" not in plain_files(out)


def test_two_exports_to_one_place_do_not_mix(tmp_path):
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    with (
        locked(partial / LOCK, wait=False),
        pytest.raises(BusyError),
        whole_or_not_at_all(tmp_path / "out"),
    ):
        raise AssertionError("it was let in")
    assert (partial / LOCK).is_file()


def test_a_full_disk_is_noticed_before_anything_is_written(world, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(DataError, match=r"needs .* GB, and the disk of"):
        exported(world / "base", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# ---- the card ------------------------------------------------------------------------------------------------------


def test_the_card_says_what_the_store_knows(world, tmp_path):
    out, said = exported(world / "run", tmp_path / "out", model="2")
    text = (out / "README.md").read_text()
    assert front(out)["license"] == "mit" and front(out)["language"] == ["en"]
    assert "sacpo" in front(out)["tags"] and "playground" not in front(out)["tags"]
    assert "arXiv:2404.11049" in text and "carried over from the base: base/README.md" in text
    assert "| data: sets/pku.jsonl | CC-BY-4.0 | sets/SOURCE.txt |" in text
    steps = [node.id for node in lineage_of(choose_model(world / "run", "2").artefact).chain]
    assert len(steps) == 2 and text.index(f"| `{steps[0]}` |") < text.index(f"| `{steps[1]}` |")
    assert "safe/implicit_reward" in text and "One seed: training noise not measured." in text
    assert "harmful requests are harmful was not measured" in text
    assert "prompts of its evaluation" in said[0] and str(world) not in text


def test_its_own_evaluation_prompts_are_asked(world):
    asked = evaluation_prompts(choose_model(world / "run", "2").artefact, count=4)
    assert 1 <= len(asked) <= 4 and all(row["prompt"][-1]["role"] == "user" for row in asked)


def test_licences_that_nobody_states_are_unknown_and_stated_ones_are_taken(world):
    chosen = choose_model(world / "run", "1")
    stated = Carded.of(chosen, ["apache-2.0", "base=llama3.1", "helpful=odc-by"], [])
    card = card_for(stated, name="x", form="model", dtype="float32", answers="")
    assert front_of(card)["license"] == "apache-2.0" and card.base_licence.text == "llama3.1"
    assert {used.licence.text for used in card.data if used.source.role == "helpful"} == {"odc-by"}
    with pytest.raises(SettingError, match="'helpfull' is no part of this model"):
        Carded.of(chosen, ["helpfull=mit"], [])
    plain = card_for(
        Carded.of(choose_model(world / "adapter"), [], []), name="x", form="merged", dtype="float32", answers=""
    )
    assert front_of(plain)["license"] == "unknown" and "**unknown**" in render_card(plain)


def test_the_card_of_a_playground_model_says_that_it_is_a_toy(world, tmp_path):
    made = tmp_path / "store" / "playground_base-0123456789ab"
    pico.directory(made / "model")
    spec = {"stage": "playground_base", "version": 2, "config": {"world": "1.0", "name": "small"}, "inputs": {}}
    (made / "spec.json").write_text(json.dumps(spec))
    (made / "manifest.json").write_text(json.dumps({"summary": {}}))
    out, _ = exported(made, tmp_path / "out")
    assert "**A toy.**" in (out / "README.md").read_text()
    assert front(out)["tags"][-1] == "playground" and front(out)["license"] == "apache-2.0"


def test_figures_that_are_no_evaluation_are_named_and_stay_off_the_card(world, tmp_path):
    """A policy that was trained online goes by its label although all that is known of it is from its training."""
    document = json.loads((world / "run" / "results.json").read_text())
    (last,) = document["results"][2:3]
    last |= {"split": "select", "suite": "rollouts", "label": "PPO-Lagrangian"}
    document["results"] = [last]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="a run's folder without models"):
        choose_model(tmp_path / "run")
    out, said = exported(tmp_path / "run", tmp_path / "out", model="PPO-Lagrangian")
    text = (out / "README.md").read_text()
    why = "results.json of the run has figures of 'PPO-Lagrangian' of its answers while training"
    assert f"None is recorded: {why}" in text and "implicit_reward" not in text
    (line,) = [line for line in said if line.startswith("No evaluation is on the card")]
    assert why in line and line.endswith("equipoise evaluate makes one, --results FILE puts it there.")


def test_a_card_without_results_has_a_blank_line_before_the_next_heading(world):
    carded = Carded.of(choose_model(world / "adapter"), [], [])
    text = render_card(card_for(carded, name="x", form="adapter", dtype="float32", answers=""))
    assert "None is recorded.\n\n## Not tested\n" in text and "\n\n\n## Not tested" not in text


def test_the_card_prints_only_settings_that_were_set(world, tmp_path):
    out, _ = exported(world / "run", tmp_path / "out", model="2")
    text = (out / "README.md").read_text()
    specs = json.loads(text.partition("```json\n")[2].partition("```")[0])
    train = specs[-1]["config"]["train"]
    assert train["learning_rate"] == 1e-2 and train["max_steps"] == 2 and train["max_length"] == 200
    assert "null" not in text and "lora_r" not in train and "adam_beta1" not in train
    assert said_of({"a": None, "b": [], "c": 0, "d": False, "e": {"f": ""}}) == {"c": 0, "d": False}


def test_a_type_of_weights_by_its_short_name(world, tmp_path):
    with pytest.raises(SettingError, match=r"--dtype bf16 is unknown \(did you mean 'bfloat16'\?\)"):
        exported(world / "base", tmp_path / "out", dtype="bf16")
    with pytest.raises(SettingError, match=r"did you mean 'float16'"):
        exported(world / "base", tmp_path / "out", dtype="fp16")


def test_results_of_other_models_are_refused(world):
    with pytest.raises(DataError, match="none of its verdict results is of"):
        Carded.of(choose_model(world / "adapter"), [], [world / "run" / "results.json"])


def test_the_command_refuses_in_one_sentence(world, tmp_path, call):
    code, out, err = call("export", world / "adapter", "--to", tmp_path / "out")
    assert code == 2 and out == "" and err.startswith("error: ") and "say --adapter" in err
