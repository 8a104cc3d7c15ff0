"""The command line: every mistake is one sentence on stderr and exit code 2, before any weights load."""

import json
import os
import resource
import subprocess
import sys

import httpx2
import huggingface_hub
import pytest
import transformers
import yaml

import pico
import small
from equipoise import __version__
from equipoise.store import DryStore, Store, locked, using_store


@pytest.fixture
def refused(call):
    """Runs a command that must be refused; returns its sentence."""

    def run(*words):
        code, out, err = call(*words)
        assert code == 2, err
        assert "Traceback" not in err and out == ""
        sentence = err.removeprefix("error: ")
        assert err.startswith("error: ") and sentence.strip()
        return sentence.rstrip("\n")

    return run


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    pico.directory(folder / "base")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, models):
    """A working directory with data and a config that would run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EQUIPOISE_STORE", raising=False)
    small.jsonl(tmp_path / "pku.jsonl", small.pku_rows(24))
    (tmp_path / "base").symlink_to(models / "base")
    config(tmp_path)
    return tmp_path


def settings(**changes):
    plain = {
        "method": "sacpo",
        "model_name_or_path": "base",
        "output_dir": "out",
        "data": {"helpful": {"path": "pku.jsonl"}, "safe": {"path": "pku.jsonl"}},
        "first": {"objective": "dpo", "beta": 0.1},
        "second": {"objective": "dpo", "beta": 0.05},
        "max_steps": 2,
        "global_batch_size": 8,
        "max_length": 200,
    }
    return {**plain, **changes}


def config(folder, name="config.yaml", **changes):
    given = {key: value for key, value in settings(**changes).items() if value is not None}
    (folder / name).write_text(yaml.safe_dump(given))
    return name


@pytest.fixture
def no_weights(monkeypatch):
    """Fails a test that loads weights, or makes an artefact, before it refuses."""

    def load(*args, **kwargs):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", load)
    yield
    assert not os.path.isdir("store"), "something was computed"


early = pytest.mark.usefixtures("no_weights")


# ---- settings ------------------------------------------------------------------------------------------------------


@early
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"learning_rte": 1.0}, "config: unknown key 'learning_rte' (did you mean 'learning_rate'?)"),
        ({"first": {"objectiv": "dpo"}}, "step 1: unknown key 'objectiv' (did you mean 'objective'?)"),
        ({"first": {"objective": "dpo", "bta": 1}}, "step 1: unknown key 'bta' (did you mean 'beta'?)"),
        ({"first": {"objective": "dpoo"}}, "objective 'dpoo' is unknown (did you mean 'dpo'?)"),
        ({"second": {"objective": "dpo", "beta": -1}}, "objective 'dpo': beta must be positive, got -1"),
        ({"second": {"objective": "dpo", "beta": "x"}}, "objective 'dpo': beta must be a number, got 'x'"),
        ({"method": "sacpoo"}, "method 'sacpoo' is unknown (did you mean 'sacpo'?)"),
        ({"learning_rate": -1}, "config: learning_rate: input should be greater than 0, got -1"),
        ({"truncation": "keep"}, "config: truncation: input should be 'drop', 'keep_end' or 'keep_start', got 'keep'"),
        ({"data": {"helpful": {"path": "pku.jsonl", "axs": "better"}}}, "data entry 'helpful' has the unknown key axs"),
        ({"data": {"helpfull": {"path": "pku.jsonl"}}}, "step 1: data 'helpful' is not one of the roles under data:"),
        ({"data": {}}, "data: name at least one role, such as helpful or safe"),
        ({"model_name_or_path": None}, "config: give model_name_or_path, or scratch to train a small base first"),
        (
            {"model_name_or_path": "./nowhere"},
            "model './nowhere' is not a directory, and a hub id looks like owner/name",
        ),
        ({"mix": 1.5}, "mix: q must lie between 0 and 1, got 1.5"),
        ({"order": ["safe"]}, "order names the data of first and second, got 1 names; use steps"),
        ({"steps": [{"data": "safe"}]}, "steps replaces first and second: give one or the other"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_settings(here, refused, changes, sentence):
    assert refused("run", config(here, **changes)).startswith(sentence)


@early
@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        (
            {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 8},
            "set global_batch_size: 32 (4 x 8, times the number of devices) instead",
        ),
        ({"per_device_train_batch_size": 4}, "set global_batch_size: 4 (4 x 1, times the number of devices) instead"),
        (
            {"gradient_accumulation_steps": 8},
            "set global_batch_size (devices x per-device batch x accumulation) instead",
        ),
        ({"second": {"per_device_train_batch_size": 2}}, "set global_batch_size: 2"),
        ({"loss_type": "ipo"}, "set objective instead"),
    ],
)
def test_keys_of_other_trainers_are_answered(here, refused, changes, advice):
    sentence = refused("run", config(here, **changes))
    assert "is not a setting here" in sentence and advice in sentence


@early
def test_numbers_in_scientific_notation_are_numbers(here, call, refused):
    (here / "sci.yaml").write_text(
        yaml.safe_dump(settings()).replace("beta: 0.1", "beta: 1e-1") + "learning_rate: 1e-3\n"
    )
    code, out, err = call("run", "sci.yaml", "--dry-run", "--set", "second.beta=5e-2")
    assert code == 0 and "train" in out, err
    assert refused("run", "sci.yaml", "--first.beta", "1e-1x") == "objective 'dpo': beta must be a number, got '1e-1x'"


@early
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [1\n", "is not YAML: while parsing a flow sequence"),
        ("- 1\n", "must hold 'key: value' lines, got list"),
        ("method: sacpo\nseed: 1\nseed: 2\n", "is not YAML: 'seed' is given twice, again in line 3"),
    ],
)
def test_files_that_are_no_configs(here, refused, text, sentence):
    (here / "bad.yaml").write_text(text)
    assert sentence in refused("run", "bad.yaml")


@early
def test_other_ways_to_call_it_wrongly(here, refused, call):
    assert refused("run", "none.yaml") == "no config at none.yaml"
    assert "is not a YAML file" in refused("run", ".")
    assert refused("run", "config.yaml", "--seed") == "--seed needs a value"
    assert refused("run", "config.yaml", "seed") == "'seed' is not of the form --key value"
    assert refused("run", "config.yaml", "--set", "seed") == "'seed' is not of the form key=value"
    assert refused("run", "config.yaml", "--seed", "[1").startswith("the value of 'seed' is not YAML")
    assert refused("run", "config.yaml", "--fresh", "trian") == (
        "--fresh trian: the run has no such stage (did you mean 'train'?)"
    )
    assert call("--version") == call("version") == (0, f"{__version__}\n", "")
    code, _, err = call("rnu")
    assert code == 2 and "rnu" in err


@early
def test_a_sentence_is_printed_as_it_is(here, refused):
    """Square brackets are markup to the terminal library."""
    assert "unknown key '[red]key[/]'" in refused("run", "config.yaml", "--[red]key[/]", "1")


@early
def test_debug_shows_where_it_came_from(here, call):
    from equipoise.errors import SettingError

    with pytest.raises(SettingError, match="unknown key"):
        call("--debug", "run", "config.yaml", "--sed", "1")


# ---- data that cannot feed the method ------------------------------------------------------------------------------


def pairs(n=20):
    return [{"prompt": f"p {i}", "chosen": f"one {i}", "rejected": f"two {i}"} for i in range(n)]


@early
def test_a_file_without_an_axis(here, refused):
    small.jsonl(here / "pairs.jsonl", pairs())
    sentence = refused("run", config(here, data={"helpful": {"path": "pairs.jsonl"}, "safe": {"path": "pku.jsonl"}}))
    first, *lines = sentence.split("\n")
    assert first.startswith("data entry 'helpful' (") and "does not say by what: add one of these two lines" in first
    assert [line.split("#")[0].strip() for line in lines] == ["axis: better", "axis: safer"]


@early
def test_an_objective_without_its_labels(here, refused):
    rows = [{k: v for k, v in row.items() if not k.endswith("_safe")} for row in small.pku_rows(20)]
    small.jsonl(here / "unflagged.jsonl", rows)
    data = {"helpful": {"path": "pku.jsonl"}, "safe": {"path": "unflagged.jsonl"}}
    sentence = refused("run", config(here, data=data, second={"objective": "kto"}))
    assert "kto needs a safety flag per answer (or a label), which the first 20 rows lack" in sentence
    assert "map: {safe: is_safe}" in sentence


@early
def test_pairs_in_the_order_of_the_other_axis(here, refused):
    small.jsonl(here / "safer.jsonl", pairs())
    data = {"helpful": {"path": "safer.jsonl", "axis": "safer"}, "safe": {"path": "pku.jsonl"}}
    first = {"objective": "dpo", "prefer": "better"}
    assert "dpo needs pairs ordered by 'better', which the first 20 rows lack" in refused(
        "run", config(here, data=data, first=first)
    )


@early
@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", b"\x1f\x8b\x08\x00rest", "a.jsonl is gzip but its name does not end in .gz"),
        ("a.jsonl.gz", b'{"prompt": 1}\n', "a.jsonl.gz is not gzip"),
        ("a.parquet", b'{"prompt": 1}\n', "a.parquet is not Parquet"),
        ("a.jsonl", b"PAR1rest", "a.jsonl is Parquet, not .jsonl"),
        ("a.jsonl", b"prompt,answer\nx,y\n", "a.jsonl line 1 is not JSON"),
        ("a.jsonl", b"\xff\xfe\x00", "is not UTF-8 text"),
        ("a.jsonl", b"", "a.jsonl is empty"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not the data"),
        ("a.xlsx", b"x", "has a suffix that no reader takes"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(here, refused, name, content, sentence):
    (here / name).write_bytes(content)
    given = {"helpful": {"path": name, "axis": "better"}, "safe": {"path": "pku.jsonl"}}
    assert sentence in refused("run", config(here, data=given))
    assert sentence in refused("data", "check", name, "--axis", "better")


@early
def test_a_file_that_is_not_there(here, refused):
    given = {"helpful": {"path": "pku.jsonll"}, "safe": {"path": "pku.jsonl"}}
    for words in ((), ("--dry-run",)):
        assert "did you mean 'pku.jsonl'" in refused("run", config(here, data=given), *words)


# ---- models that cannot be trained ---------------------------------------------------------------------------------


@early
def test_a_tokenizer_without_a_chat_template(here, refused, call):
    pico.directory(here / "bare")
    (here / "bare" / "chat_template.jinja").unlink()
    sentence = refused("run", "config.yaml", "--model_name_or_path", "bare")
    assert "has no chat template and none is guessed" in sentence
    assert all(name in sentence for name in ("beaver", "chatml", "plain"))
    assert "neither a .jinja file nor one of beaver" in refused(
        "run", "config.yaml", "--model_name_or_path", "bare", "--chat_template", "plan"
    )
    code, _, err = call("run", "config.yaml", "--model_name_or_path", "bare", "--chat_template", "plain", "--dry-run")
    assert code == 0, err


@early
def test_vocabularies_that_disagree(here, refused):
    pico.directory(here / "cut")
    pico.llama(vocabulary=pico.VOCABULARY).save_pretrained(here / "cut")
    sentence = refused("run", "config.yaml", "--model_name_or_path", "cut")
    assert "disagree: the tokenizer's ids go up to 262, the model embeds only 97 tokens" in sentence


@early
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("--use_peft", "true", "--lora_target_modules", "[q_proj, vproj]"),
            "lora_target_modules: 'vproj' matches no linear layer (did you mean 'v_proj'?)",
        ),
        (
            ("--use_peft", "true", "--lora_target_modules", "q_proj"),
            "lora_target_modules must be a list of module names or 'all-linear', got 'q_proj'",
        ),
        (("--trainable", "[downproj]"), "trainable: 'downproj' matches no parameter (did you mean 'down_proj'?)"),
        (("--use_peft", "true", "--trainable", "[down_proj]"), "use_peft and trainable exclude each other"),
        (("--use_peft", "true", "--second.lora_r", "4"), "step 2: lora_r is 4, but the step continues the adapter of"),
        (("--use_peft", "true", "--second.use_peft", "false"), "step 2: use_peft is False, but the step continues"),
        (("--second.use_peft", "true", "--mix", "0.5"), "merging needs the first and the last step both with use_peft"),
    ],
)
def test_parts_of_a_model_that_are_not_there(here, refused, words, sentence):
    assert refused("run", "config.yaml", *words).startswith(sentence)


@early
def test_a_model_of_a_hub_that_cannot_be_reached(here, monkeypatch, call):
    """One attempt and one sentence, where the hub's library makes twelve and tells of each twice."""
    asked = []

    def unreached(self, name, **settings):
        asked.append(name)
        raise httpx2.ConnectError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreached)
    code, _, err = call("run", "config.yaml", "--model_name_or_path", "nobody/nothing-of-the-kind")
    assert code == 2 and asked == ["nobody/nothing-of-the-kind"] and err.count("\n") == 1
    assert err.startswith("error: no tokenizer can be loaded from 'nobody/nothing-of-the-kind': it is no directory")
    assert "the hub cannot be reached (ConnectError)" in err


@early
def test_a_directory_without_a_model(here, refused):
    (here / "empty").mkdir()
    assert "no tokenizer can be loaded from" in refused("run", "config.yaml", "--model_name_or_path", "empty")


def test_merging_models_of_different_shapes(here, refused, models):
    pico.directory(here / "deep")
    pico.llama(layers=3, vocabulary=len(pico.tokenizer())).save_pretrained(here / "deep")
    sentence = refused("merge", "base", "deep", "--weights", "0.5,0.5", "--to", "merged")
    assert sentence.startswith("merge: num_hidden_layers is 3 in") and "expected 2 as in" in sentence
    assert sorted(p.name for p in here.iterdir()) == ["base", "config.yaml", "deep", "pku.jsonl"], "nothing is left"


def test_merging_wrongly(here, refused, models):
    assert "one for each of 2 sources" in refused("merge", "base", "base", "--weights", "1", "--to", "merged")
    assert refused("merge", "base", "--weights", "a", "--to", "m") == (
        "--weights must be numbers separated by commas, got 'a'"
    )
    assert refused("merge", "nowhere", "--weights", "1", "--to", "m") == (
        "merge works on directories, and 'nowhere' is none"
    )
    (here / "there").mkdir()
    assert refused("merge", "base", "--weights", "1", "--to", "there") == (
        "--to there is there already: choose another directory"
    )
    assert not (here / "merged").exists() and not (here / "m").exists()


def test_merging(here, call, models):
    pico.directory(here / "other", seed=1)
    code, out, err = call("merge", "base", "other", "--weights", "0.25,0.75", "--to", "deeper/merged")
    assert code == 0 and out == "merged into deeper/merged\n", err
    loaded = transformers.AutoModelForCausalLM.from_pretrained(here / "deeper" / "merged")
    a, b = (transformers.AutoModelForCausalLM.from_pretrained(p).lm_head.weight for p in ("base", "other"))
    assert (loaded.lm_head.weight - (0.25 * a + 0.75 * b)).abs().max() < 1e-6
    assert [p.name for p in (here / "deeper").iterdir()] == ["merged"]


# ---- what may happen to a run --------------------------------------------------------------------------------------


@early
def test_a_second_process_on_the_same_stage(here, refused, no_weights):
    from equipoise.runs import load_run

    dry = DryStore(here / "held")
    with using_store(dry):
        load_run(here / "config.yaml", []).execute()
    (_, name, _), *_ = dry.planned
    (here / "held" / name).mkdir(parents=True)
    with locked(here / "held" / name / "lock", wait=False):
        sentence = refused("--store", "held", "run", "config.yaml")
    assert sentence.startswith(f"{name} is being computed by process {os.getpid()} on ")


def broken_disk(kind):
    """What numpy, the system, safetensors, torch and tokenizers raise on a disk that is full (tried on a small one)."""
    import errno

    from safetensors import SafetensorError

    return {
        "system": OSError(errno.ENOSPC, "No space left on device"),
        "quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
        "numpy": OSError("1160 requested and 992 written"),
        "safetensors": SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        "torch": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 5120 vs 5012"),
        "torch again": RuntimeError("basic_ios::clear: iostream error"),
        "tokenizers": Exception("No space left on device (os error 28)"),
    }[kind]


@pytest.mark.parametrize("kind", ["system", "quota", "numpy", "safetensors", "torch", "torch again", "tokenizers"])
def test_a_full_disk(here, call, monkeypatch, kind):
    from equipoise.data.tokens import TokenTable

    def write(*args):
        raise broken_disk(kind)

    with monkeypatch.context() as patch:
        patch.setattr(TokenTable, "write", write)
        code, _, err = call("run", "config.yaml")
    assert code == 2 and "Traceback" not in err
    assert err.startswith("error: the disk is full while writing prepare at ") and "run the same command again" in err
    (folder,) = (here / "store").iterdir()
    assert not (folder / "manifest.json").exists() and not (here / "store" / "out").exists()


def test_a_disk_that_is_full_before_the_first_byte(here, call, monkeypatch):
    from equipoise import store

    def write(*args):
        raise broken_disk("system")

    monkeypatch.setattr(store, "write_json", write)
    code, _, err = call("run", "config.yaml")
    assert code == 2 and err.startswith("error: the disk is full while writing prepare at ")


def test_a_log_that_cannot_be_written_stops_nothing(here, capsys):
    import logging

    from equipoise.store import _log_to

    with _log_to("/dev/full"):
        logging.getLogger("equipoise.x").warning("lost")
    assert capsys.readouterr().err == ""


def test_other_errors_are_not_called_a_full_disk(here, monkeypatch):
    from equipoise.store import FullDisk

    with pytest.raises(RuntimeError, match="something else"), FullDisk("trying"):
        raise RuntimeError("something else")
    with pytest.raises(OSError, match="not there"), FullDisk("trying"):
        raise FileNotFoundError("not there")


# ---- rows that cannot be used --------------------------------------------------------------------------------------


def bad_rows():
    """One row of every kind that is left out of safety pairs, by the reason that is given."""
    plain = small.pku_rows(1, seed=9)[0]
    flags = {"is_response_0_safe": False, "is_response_1_safe": True}
    return {
        "identical answers": {**plain, "prompt": "a?", "response_1": plain["response_0"]},
        "empty completion": {**plain, "prompt": "b?", "response_1": "  "},
        "too long for max_length": {**plain, "prompt": "c?", "response_1": "x" * 300},
        "contradictory labels": {**plain, "prompt": "d?", "safer_response_id": 0, **flags},
        "duplicate": small.pku_rows(24)[3],
    }


def test_unusable_rows_are_counted_and_written_down(here, call, refused):
    small.jsonl(here / "some.jsonl", [*small.pku_rows(24), *bad_rows().values()])
    given = {"helpful": {"path": "pku.jsonl"}, "safe": {"path": "some.jsonl"}}
    name = config(here, data=given, order=["safe", "helpful"])
    code, _, err = call("run", name)
    assert code == 2 and "error: safe: 5 of 29 rows cannot be used (" in err
    assert "more than max_dropped = 0.05 allows" in err and "Traceback" not in err
    (folder,) = (here / "store").iterdir()
    dropped = [json.loads(line) for line in (folder / "dropped.jsonl").read_text().splitlines()]
    assert len(dropped) == 5 and all(entry["id"] for entry in dropped)
    found = {entry["reason"] for entry in dropped}
    assert len(found) == 5, found
    for reason in ("identical", "empty", "too long", "contradict", "duplicate"):
        assert [r for r in found if reason in r], reason
        assert reason in err
    with using_store(Store(here / "store")):
        code, _, err = call("run", name, "--max_dropped", "0.2", "--second.max_steps", "1", "--max_steps", "1")
    assert code == 0, err
    counts = [json.loads(path.read_text())["summary"] for path in (here / "store").glob("prepare-*/manifest.json")]
    assert sorted((c["rows"], sum(c["dropped"].values())) for c in counts) == [(24, 0), (24, 5)]


def test_data_check_says_what_will_be_dropped(here, call, refused):
    small.jsonl(here / "some.jsonl", [*small.pku_rows(24), *bad_rows().values()])
    code, out, err = call("data", "check", "some.jsonl")
    assert code == 0, err
    assert "29" in out and "pku" in out and "dpo" in out and "kto" in out
    for reason in ("identical", "empty", "contradict", "duplicate"):
        assert reason in out, reason
    assert "amber" not in out, "rows are never quoted"
    small.jsonl(here / "pairs.jsonl", pairs())
    assert "axis: better" in refused("data", "check", "pairs.jsonl")
    assert call("data", "check", "pairs.jsonl", "--axis", "better")[0] == 0


# ---- a run that works ----------------------------------------------------------------------------------------------


def test_a_run_from_the_plan_to_the_results(here, call):
    name = config(here, holdout=0.3)
    words = ("run", name, "--set", "mix=[0.5]", "--learning_rate", "1e-3", "--second.beta=0.02")
    code, out, err = call(*words, "--dry-run")
    assert code == 0 and out.count("to be computed") == 7, err
    assert not (here / "store").exists() and not (here / "out").exists(), "a dry run computes nothing"

    code, out, err = call(*words)
    assert code == 0, err
    written = yaml.safe_load((here / "out" / "config.yaml").read_text())
    assert written["learning_rate"] == 1e-3 and written["second"]["beta"] == 0.02 and written["mix"] == [0.5]
    links = sorted(p.name for p in (here / "out").iterdir() if p.is_symlink())
    assert links == ["1-step-1--dpo-helpful--0.1", "2-step-2--dpo-safe--0.02", "3-p-sacpo-q-0.5"]
    assert all((here / "out" / link / "model.safetensors").is_file() for link in links)
    results = json.loads((here / "out" / "results.json").read_text())["results"]
    assert [r["label"] for r in results] == [
        "base",
        "step 1: dpo(helpful, 0.1)",
        "step 2: dpo(safe, 0.02)",
        "P-SACPO q 0.5",
    ]
    assert all(r["metrics"]["helpful/implicit_reward"]["n"] > 0 for r in results)
    assert results[0]["metrics"]["safe/implicit_reward"]["mean"] == 0.5
    assert "accuracy on held-out pairs" in out

    code, out, err = call(*words)
    assert code == 0 and "reused" in err and "finished" not in err
    code, out, _ = call(*words, "--dry-run")
    assert "to be computed" not in out and out.count("there") == 7
    code, _, err = call(*words, "--fresh", "merge")
    assert code == 0 and [line.split("-")[0] for line in err.splitlines() if "finished" in line] == ["finished  merge"]


@pytest.mark.parametrize("second", ["kto", "ipo"])
def test_a_run_with_other_objectives_and_one_step(here, call, second):
    code, _, err = call("run", "config.yaml", "--second.objective", second, "--holdout", "0.2", "--max_steps", "1")
    assert code == 0, err
    data = {"all": {"path": "pku.jsonl"}}
    name = config(here, method="dpo", data=data, first=None, second=None, objective=second, beta=0.2, prefer="better")
    code, out, err = call("run", name, "--output_dir", "one", "--max_steps", "1")
    assert code == 0 and f"{second}(all, 0.2)" in out, err


def test_show_and_why(here, call, refused):
    for seed in ("1", "2"):
        code, _, err = call("run", "config.yaml", "--seed", seed, "--max_steps", "1")
        assert code == 0, err
    folders = sorted((here / "store").glob("train-*"), key=lambda p: p.stat().st_mtime_ns)
    code, out, _ = call("show", folders[0])
    out_of_show, shown = out, json.loads(out)
    assert code == 0 and shown["spec"]["stage"] == "train" and shown["manifest"]["summary"]["steps"] == 1
    of_step_1 = [p for p in folders if json.loads((p / "spec.json").read_text())["inputs"]["model"].find("train") < 0]
    code, out, _ = call("why", *of_step_1)
    lines = out.splitlines()
    assert code == 0 and "config.train.seed: 1 -> 2" in lines and all(" -> " in line for line in lines)
    assert call("why", folders[0], folders[0])[1] == "the two have equal specs\n"
    elsewhere = here / "elsewhere"
    folders[0].parent.rename(elsewhere)
    code, again, _ = call("--store", elsewhere, "show", folders[0].name)
    assert code == 0 and again == out_of_show
    ids = [path.name for path in of_step_1]
    assert call("--store", elsewhere, "why", *ids)[1].splitlines() == lines
    missing = f"there is no {ids[0]}, neither as a path nor in the store {here / 'store'}"
    assert refused("--store", here / "store", "show", ids[0]) == missing
    elsewhere.rename(folders[0].parent)
    assert refused("show", here) == f"{here} is not an artefact: it has no spec.json"
    assert refused("why", folders[0], here) == f"{here} is not an artefact: it has no spec.json"


# ---- without torch -------------------------------------------------------------------------------------------------

LIGHT = """
import sys
from equipoise.cli import main
for words in {commands!r}:
    sys.argv = ["equipoise", *words]
    try:
        main()
    except SystemExit as exit_:
        assert not exit_.code, exit_.code
heavy = [name for name in ("torch", "transformers", "peft", "accelerate", "matplotlib") if name in sys.modules]
assert not heavy, heavy
"""


def test_help_show_and_why_do_not_wait_for_torch(here):
    folder = here / "store" / "train-0"
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text("{}")
    path = str(folder)
    commands = [
        ["--help"],
        ["run", "--help"],
        ["version"],
        ["show", path],
        ["why", path, path],
        ["data", "check", "pku.jsonl"],
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(commands=commands)], capture_output=True, text=True, timeout=60, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout and "the two have equal specs" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 4.0  # seconds of processor time


def test_the_package_runs_as_a_module(here):
    done = subprocess.run(
        [sys.executable, "-m", "equipoise", "run", "none.yaml"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2 and done.stderr == "error: no config at none.yaml\n" and done.stdout == ""


# ---- objectives ----------------------------------------------------------------------------------------------------


def test_an_objective_is_checked(here, call, refused):
    (here / "mine.py").write_text("def f(logps, ref_logps, *, beta=0.1): return (1 - beta * logps.margin).relu()\n")
    code, out, _ = call("objective", "check", "mine.py:f", "--set", "beta=0.5")
    assert code == 0 and out.startswith("mine.py:f\n") and "beta = 0.5" in out and out.endswith("OK\n")
    assert call("objective", "check", "dpo")[0] == 0
    assert refused("objective", "check", "dpoo") == "objective 'dpoo' is unknown (did you mean 'dpo'?)"
    sentence = "objective 'mine.py:f' takes no 'bta' (did you mean 'beta'?)"
    assert refused("objective", "check", "mine.py:f", "--set", "bta=1") == sentence
    (here / "mine.py").write_text("def f(logps): return logps.margin.sum()\n")
    assert refused("objective", "check", "mine.py:f").startswith("objective 'mine.py:f' returns shape () for 6 rows")


@early
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"first": {"objective": "mine.py:g"}}, "objective 'mine.py:g': mine.py has no 'g'"),
        ({"first": {"objective": "mine.py:f", "bta": 1}}, "step 1: unknown key 'bta'"),
        ({"method": "none.py:f"}, "method 'none.py:f': there is no file "),
        ({"first": {"load_in_4bit": True}}, "step 1: load_in_4bit quantizes a base that stays frozen, so it needs"),
    ],
    ids=["name", "key", "file", "4bit"],
)
def test_what_is_given_by_path_is_refused_early(here, refused, changes, sentence):
    (here / "mine.py").write_text("def f(logps, ref_logps, *, beta=0.1): return -beta * logps.margin\n")
    assert refused("run", config(here, **changes)).startswith(sentence)
