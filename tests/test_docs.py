"""The examples in the documents run: those that assert are executed, the others import what exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def examples() -> list[tuple[str, str]]:
    """(document:line, code) of every python block."""
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        for block in re.finditer(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, block.start(1)) + 1
            found.append((f"{path.name}:{line}", block.group(1)))
    return found


def holds(code: str, *kinds: type[ast.AST]) -> bool:
    return any(isinstance(node, kinds) for node in ast.walk(ast.parse(code)))


RUNNABLE = [pytest.param(place, code, id=place) for place, code in examples() if holds(code, ast.Assert)]
OTHERS = [
    pytest.param(place, code, id=place)
    for place, code in examples()
    if not holds(code, ast.Assert) and holds(code, ast.Import, ast.ImportFrom)
]


def test_the_statistics_have_examples():
    assert sum(str(param.id).startswith("evaluation.md") for param in RUNNABLE) >= 8


@pytest.mark.parametrize(("place", "code"), RUNNABLE)
def test_examples_give_what_they_say(place: str, code: str):
    found: dict[str, object] = {"__name__": "example"}
    exec(compile(code, place, "exec"), found)  # its assertions speak
    named = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name) and node.id in found}
    assert named, "the example ran to its end and left its names"


@pytest.mark.parametrize(("place", "code"), OTHERS)
def test_other_examples_import_what_exists(place: str, code: str):
    imports = [node for node in ast.parse(code).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports
    exec(compile(ast.Module(imports, type_ignores=[]), place, "exec"), {})
