"""Between rooms, imports go from a lower row only (docs/architecture.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "equipoise"

ROWS = {
    "types": 0, "errors": 0, "given": 0, "guard": 0, "__init__": 0, "__version__": 0,
    "config": 1, "store": 1, "records": 1, "objectives": 1, "statistics": 1,
    "playground.lexicon": 1, "playground.phrases": 1, "playground.world": 1, "playground.answers": 1,
    "playground.rules": 1, "playground.truth": 1, "playground.annotators": 1, "playground.__init__": 1,
    "playground.single": 1, "playground.labelling": 1,
    "data": 2,
    "models": 3, "judges": 3,
    "generate": 4, "train": 4, "scorers": 4, "serving": 4,
    "scoring": 5, "answering": 5, "preparing": 5, "launch": 5, "evaluate": 5, "online": 5,
    "stages": 6,
    "methods": 7, "playground.base": 7, "playground.shipped": 7, "playground.stages": 7, "playground.pool": 7,
    "playground.census": 7, "playground.wanted": 7, "playground.scorers": 7, "playground.oracle": 7,
    "playground.planted": 7,
    "bench": 8, "arms": 8, "asking": 8, "demo": 8, "runs": 8, "chat": 8,
    "progress": 8, "terminal": 8, "cli": 8, "cli_data": 8, "cli_results": 8, "__main__": 8,
    "exporting": 8, "chosen_model": 8, "carding": 8, "capability": 8,
    "starting": 8, "showing": 8, "advising": 8, "solving": 8, "quality": 8,
    "graders": 8, "grading": 8, "pairwise": 8, "gating": 8, "gating_playground": 8,
    "evaluating": 8, "evaluating_settings": 8, "evaluating_playground": 8, "measuring": 8, "comparing": 8,
    "online_runs": 8, "lagrangian": 8, "constitution_runs": 8, "constitutional": 8,
    "dualized": 8, "spent": 8, "grid": 8, "grid_cell": 8, "grid_run": 8, "grid_page": 8,
    "frontier_run": 8, "jobs": 8, "job_lines": 8,
}  # fmt: skip
# Never imported while a module loads: heavy, optional, or only an oracle of the tests.
ONLY_INSIDE_FUNCTIONS = {"trl", "datasets", "deepspeed", "vllm", "lm_eval", "bitsandbytes", "gguf", "pyarrow"}
NO_TORCH = ("methods", "data.sources", "data.relabel", "data.check", "playground.world", "playground.truth")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def room(module: str) -> str:
    """The longest listed prefix of a module's dotted name."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in ROWS:
            return ".".join(parts[:end])
    raise AssertionError(f"{module} belongs to no row: add it to ROWS and to docs/architecture.md")


def imports(tree: ast.AST) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def test_imports_go_down():
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        here = room(name_of(path))
        for line, target in imports(ast.parse(path.read_text(encoding="utf-8"))):
            if not target.startswith("equipoise."):
                continue
            there = room(target.removeprefix("equipoise."))
            same = there.split(".")[0] == here.split(".")[0]
            level = ROWS[there] == ROWS[here] and 2 <= ROWS[here] <= 7 and not same
            if there != here and (ROWS[there] > ROWS[here] or level):
                wrong.append(f"{path.relative_to(SOURCE)}:{line} ({here}) imports {target} ({there})")
    assert not wrong, "\n".join(wrong)


def test_heavy_optional_packages_are_imported_inside_functions():
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = (
                [n for _, n in imports(ast.Module([node], []))]
                if isinstance(node, (ast.Import, ast.ImportFrom))
                else []
            )
            wrong += [f"{path.name}:{node.lineno} {n}" for n in names if n.split(".")[0] in ONLY_INSIDE_FUNCTIONS]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "module",
    ["cli", "methods.sacpo", "methods.modpo", "methods.run", "data.sources", "data.relabel", "playground.truth"],
)
def test_what_the_command_line_touches_does_not_import_torch(module):
    code = f"import sys, equipoise.{module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_files_hold_one_idea():
    long = [
        f"{p.name}: {n}" for p in SOURCE.rglob("*.py") if (n := len(p.read_text(encoding="utf-8").splitlines())) > 400
    ]
    assert not long, long


def test_every_setting_is_read_somewhere():
    from equipoise.config import TrainConfig
    from equipoise.methods.run import Run

    text = "\n".join(p.read_text(encoding="utf-8") for p in SOURCE.rglob("*.py") if p.name != "config.py")
    names = {n for c in (TrainConfig, *Run.METHODS.values()) for n in c.model_fields}
    unread = [n for n in sorted(names) if f".{n}" not in text]
    assert not unread, unread
