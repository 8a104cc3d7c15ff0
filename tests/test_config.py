import pytest

from equipoise.config import Config, Execution, Later, ObjectiveUse, TrainConfig, canonical_json, override, read_yaml
from equipoise.errors import SettingError


class Toy(Config):
    learning_rate: float = 0.1
    speed: int = Execution(4)
    part: ObjectiveUse = ObjectiveUse(objective="dpo")


def test_unknown_keys_are_refused_with_the_nearest():
    with pytest.raises(SettingError, match=r"unknown key 'learning_rte' .did you mean 'learning_rate'"):
        Toy.make({"learning_rte": 1})


def test_keys_of_other_trainers_are_answered():
    with pytest.raises(SettingError, match="global_batch_size"):
        TrainConfig.make({"per_device_train_batch_size": 4})


def test_a_wrong_value_names_the_key_and_what_it_got():
    with pytest.raises(SettingError, match=r"learning_rate: input should be greater than 0, got -1"):
        TrainConfig.make({"learning_rate": -1})


def test_nested_problems_name_the_path():
    with pytest.raises(SettingError, match=r"part: unknown key 'beta'"):
        Toy.make({"part": {"objective": "dpo", "beta": 1}})


def test_execution_fields_stay_out_of_the_canonical_form():
    assert Toy(speed=1).canonical() == Toy(speed=9).canonical()
    assert "speed" not in Toy().canonical()
    assert Toy(learning_rate=1).canonical() != Toy().canonical()
    assert canonical_json({"b": 1, "a": [2.0, None]}) == '{"a":[2.0,null],"b":1}'


def test_a_later_field_enters_the_canonical_form_where_it_is_used():
    class Grown(Toy):
        more: int | None = Later(None)

    assert Grown().canonical() == Toy().canonical()
    assert Grown(more=3).canonical() == {**Toy().canonical(), "more": 3}


def test_speed_settings_are_execution_and_meaning_is_not():
    fast = TrainConfig(tokens_per_micro_batch=1, logging_steps=3, save_steps=7, report_to=("tensorboard",))
    assert fast.canonical() == TrainConfig().canonical()
    for change in ({"seed": 1}, {"global_batch_size": 8}, {"max_length": 9}, {"trainable": ("down_proj",)}):
        assert TrainConfig(**change).canonical() != TrainConfig().canonical()


def test_overrides_are_yaml_and_nested(tmp_path):
    data = override({"a": 1, "first": {"beta": 1}}, ["first.beta=0.5", "mix=[0.25, 0.5]", "b.c=x"])
    assert data == {"a": 1, "first": {"beta": 0.5}, "mix": [0.25, 0.5], "b": {"c": "x"}}
    with pytest.raises(SettingError, match="key=value"):
        override({}, ["beta"])
    with pytest.raises(SettingError, match="not further keys"):
        override({"a": 1}, ["a.b=1"])


def test_files_that_are_not_configs(tmp_path):
    with pytest.raises(SettingError, match="no config at"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(SettingError, match="key: value"):
        read_yaml(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1\n")
    with pytest.raises(SettingError, match="is not YAML"):
        read_yaml(tmp_path / "bad.yaml")


def test_settings_are_values():
    settings = TrainConfig()
    with pytest.raises(Exception, match="frozen"):
        settings.seed = 3
    assert settings.but(seed=3).seed == 3 and settings.seed == 0
