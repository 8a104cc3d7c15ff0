"""Objects by path: what is found, what their source is, and that every mistake is one sentence."""

import pytest

from equipoise.errors import SettingError
from equipoise.given import is_given, load, source_of


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_looks_like_a_path():
    assert [is_given(t) for t in ("dpo", "mine.py:f", "lab.losses:f", "lab/losses.py", "mine.py")] == [
        False,
        *[True] * 4,
    ]


def test_the_source_is_that_of_the_bytes_and_follows_every_edit(here):
    (here / "mine.py").write_text("def f(): return 1\n")
    first = load("./mine.py:f", what="objective")
    (here / "mine.py").write_text("def f(): return 2\n")  # as long as before, within the same second
    second = load("mine.py:f", what="objective")
    assert (first.name, second.name) == ("mine.py:f", "mine.py:f") and first.source != second.source
    assert (first.value(), second.value()) == (1, 2)
    (here / "mine.py").write_text("def f(): return 1\n")
    assert load("mine.py:f", what="objective").source == first.source == source_of(first.value)
    assert source_of(load) is None


def test_modules_of_packages(here):
    (here / "lab").mkdir()
    (here / "lab" / "losses.py").write_text("from .sizes import ONE\ndef f(): return ONE\n")
    (here / "lab" / "sizes.py").write_text("ONE = 1\n")
    found = load("lab.losses:f", what="objective")
    assert found.name == "lab.losses:f" and found.value() == 1
    (here / "lab" / "losses.py").write_text("from .sizes import ONE\ndef f(): return 0.\n")
    again = load("lab.losses:f", what="objective")
    assert again.value() == 0 and again.source != found.source


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("mne.py:f", r"^objective 'mne.py:f': there is no file /\S+/mne.py \(did you mean 'mine.py'\?\)$"),
        ("mine.py:fast", r"mine.py has no 'fast' \(did you mean 'first'\?\)$"),
        ("mine.py", "names a file but nothing in it: write mine.py:NAME"),
        ("sub/mine.py:a/b", "'a/b' is not a name in Python"),
        (":f", "names no file"),
        ("other/mine:f", "no file"),
        ("broken.py:f", r"broken.py cannot be imported: NameError: name 'nowhere' is not defined \(line 2\)$"),
        ("syntax.py:f", r"syntax.py cannot be imported: SyntaxError: .+ \(line 1\)$"),
        ("leaves.py:f", "leaves.py cannot be imported: SystemExit: 3"),
        ("nothing_there:f", "there is no module nothing_there$"),
        ("nothing_there.at_all:f", "there is no module nothing_there$"),
        ("sys:path", "the module sys has no source file$"),
    ],
)
def test_mistakes_are_one_sentence(here, text, sentence):
    (here / "mine.py").write_text("import os\ndef first(): pass\n")
    (here / "broken.py").write_text("x = 1\nnowhere\n")
    (here / "syntax.py").write_text("def f(:\n")
    (here / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(SettingError, match=sentence) as caught:
        load(text, what="objective")
    assert "\n" not in str(caught.value)
