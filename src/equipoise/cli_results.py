"""Commands about finished models: evaluate, compare, frontier, report, export, gate."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Annotated, Optional

import typer

from equipoise.progress import Display
from equipoise.store import using_store
from equipoise.terminal import as_assignments, console, errors, open_store, state


def evaluate(
    words: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="MODEL", help="Models (directories, hub ids), or a config naming them."),
    ] = None,
    config: Annotated[Optional[Path], typer.Option(help="A YAML file: suites, graders, models.")] = None,  # noqa: UP045
    playground: Annotated[
        bool, typer.Option("--playground", help="On the playground's prompts, by its truth.")
    ] = False,
    set_: Annotated[list[str], typer.Option("--set", help="key=value, may be given several times.")] = [],  # noqa: B006
) -> None:
    """Evaluate models: equipoise evaluate [MODEL ...] --config CONFIG.yaml [--key value ...], or MODEL --playground."""
    from equipoise.evaluating import evaluate_as_asked
    from equipoise.evaluating_settings import asked_for

    models = list(takewhile(lambda word: not word.startswith("--"), words or []))
    assignments = as_assignments((words or [])[len(models) :])
    asked = asked_for(models, config, [*set_, *assignments], playground=playground)
    if asked.store is not None and state["store"] is None:
        state["store"] = asked.store
    with Display(errors) as display, using_store(open_store(display)):
        evaluate_as_asked(asked, say=display.say(console))


def compare(
    a: Annotated[Path, typer.Argument(help="A results.json, or a folder that holds one.")],
    b: Annotated[Path, typer.Argument(help="Another one, or the same with another --model.")],
    model: Annotated[list[str], typer.Option(help="Label, where there are several; twice: A's, then B's.")] = [],  # noqa: B006
    force: Annotated[bool, typer.Option("--force", help="Although they were measured differently.")] = False,
    out: Annotated[Optional[Path], typer.Option(help="A JSON file to write the differences to.")] = None,  # noqa: UP045
) -> None:
    """Compare two models by their results: equipoise compare A B [--model LABEL]."""
    from equipoise.comparing import compare_files

    with Display(errors) as display:
        compare_files(a, b, models=model, force=force, out=out, say=display.say(console))


def gate(
    rules: Annotated[Path, typer.Argument(help="A YAML file of rules.")],
    baseline: Annotated[Optional[Path], typer.Option(help="The results.json to compare with, or its folder.")] = None,  # noqa: UP045
    candidate: Annotated[Optional[str], typer.Option(help="A results.json or its folder, or a model.")] = None,  # noqa: UP045
    endpoint: Annotated[Optional[str], typer.Option(help="What is served: http://HOST:PORT/v1.")] = None,  # noqa: UP045
    out: Annotated[Path, typer.Option(help="Where gate.md, gate.xml and the candidate's results go.")] = Path("gate"),
) -> None:
    """Say whether a model may ship: exit code 0 every rule holds, 1 one is broken, 3 undecided, 2 a mistake."""
    from equipoise.gating import Asked, exit_code

    with Display(errors) as display, using_store(open_store(display)):
        code = exit_code(Asked(rules, baseline, candidate, endpoint, out), say=display.say(console))
    raise typer.Exit(code)


def export(
    run: Annotated[
        Path, typer.Argument(help="A run's folder, a model in it, an artefact of the store or a directory.")
    ],
    to: Annotated[Path, typer.Option(help="Directory for plain files and the model card; must not exist.")],
    model: Annotated[Optional[str], typer.Option(help="Label or number, where a run left several.")] = None,  # noqa: UP045
    adapter: Annotated[bool, typer.Option("--adapter", help="Export an adapter as it is.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Export an adapter's base with the adapter added.")] = False,
    dtype: Annotated[Optional[str], typer.Option(help="bfloat16, float16 or float32; as it is without.")] = None,  # noqa: UP045
    license_: Annotated[
        list[str], typer.Option("--license", help="LICENCE of the model, or base=LICENCE, or DATA=LICENCE; repeatable.")
    ] = [],  # noqa: B006
    results: Annotated[
        list[Path], typer.Option(help="results.json for the card, instead of the run's; repeatable.")
    ] = [],  # noqa: B006
    allow_differences: Annotated[
        bool, typer.Option("--allow-differences", help="Export although greedy answers differ by more than allowed.")
    ] = False,
) -> None:
    """Write a finished model as plain files with a card, compared with what it was: equipoise export RUN --to DIR."""
    from equipoise.exporting import Export
    from equipoise.exporting import export as write

    asked = Export(run, to, model, adapter, merge, dtype, tuple(license_), tuple(results), allow_differences)
    with Display(errors) as display, using_store(open_store(display)):
        write(asked, say=display.say(console))


def frontier(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="A YAML file: runs and how they are evaluated, or playground: small.")],
    set_: Annotated[list[str], typer.Option("--set", help="key=value, may be given several times.")] = [],  # noqa: B006
) -> None:
    """Train methods at several settings, evaluate all alike, draw one page: equipoise frontier CONFIG.yaml."""
    from equipoise.config import override, read_yaml

    settings = override(read_yaml(config), [*set_, *as_assignments(context.args)])
    if settings.get("store") is not None and state["store"] is None:
        state["store"] = Path(settings["store"])
    with Display(errors) as display, using_store(open_store(display)) as store:
        if "playground" in settings:
            from equipoise.grid_run import GridConfig, run_grid

            grid = GridConfig.make(settings, where=str(config))
            run_grid(grid, store=store.root, say=display.say(console), terminal=display.pause)
        else:
            from equipoise.frontier_run import FrontierConfig, run_frontier

            asked = FrontierConfig.make(settings, where=str(config))
            drawn = run_frontier(asked, base_dir=Path.cwd(), say=display.say(console), terminal=display.pause)
            if drawn.failed:  # the others are on the page, and whoever waits for the command must know
                raise typer.Exit(1)


def report(
    results: Annotated[Path, typer.Argument(help="A results.json, or a folder that holds one.")],
    one_page: Annotated[
        bool, typer.Option("--one-page", help="Only one-page.html, which prints on one sheet.")
    ] = False,
    out: Annotated[Optional[Path], typer.Option(help="Where to write (default: where results.json lies).")] = None,  # noqa: UP045
    target: Annotated[Optional[float], typer.Option(help="Unsafe rate to hold it against, instead of its own.")] = None,  # noqa: UP045
) -> None:
    """Write the page of a run again from its results.json: equipoise report FOLDER [--one-page]."""
    from equipoise.evaluate.rerender import render_again

    path = render_again(results, out=out, one_page=one_page, target=target)
    console.print(str(path), highlight=False, markup=False, soft_wrap=True)
