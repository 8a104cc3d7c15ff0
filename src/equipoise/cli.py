"""The command line: thin functions over the rooms below, one sentence for a user's mistake."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from enum import StrEnum
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from equipoise import __version__
from equipoise.errors import EquipoiseError, SettingError, UserError, nearest
from equipoise.progress import Display
from equipoise.store import FullDisk, Store, using_store

if TYPE_CHECKING:
    from equipoise.data.sources import DataEntry

app = typer.Typer(
    name="equipoise",
    help="Align language models to be helpful and harmless, and see what each level of safety costs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Look at preference data before training on it.", no_args_is_help=True)
app.add_typer(data_app, name="data")
objective_app = typer.Typer(help="Look at an objective before training on it.", no_args_is_help=True)
app.add_typer(objective_app, name="objective")
console = Console()
errors = Console(stderr=True)


class BaseName(StrEnum):
    """Bases of the playground."""

    small = "small"
    large = "large"
    rated = "rated"


_state: dict[str, Any] = {"debug": False, "store": None}


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option(help="Show tracebacks and all log lines.")] = False,
    store: Annotated[Optional[Path], typer.Option(help="Where finished stages are kept (default: ./store).")] = None,  # noqa: UP045
) -> None:
    _state.update(debug=debug, store=store)
    logging.basicConfig(
        level=logging.INFO if debug else logging.WARNING,
        format="%(message)s",
        handlers=[
            RichHandler(
                level=logging.INFO if debug else logging.WARNING, console=errors, show_path=debug, show_time=debug
            )
        ],
    )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Our own display says how far a stage is; the libraries' bars would write over it.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # PEFT imports it where it is installed, and it remarks on kernels that nothing here asks for.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _store(display: Display, fresh: tuple[str, ...] = ()) -> Store:
    root = _state["store"] or Path(os.environ.get("EQUIPOISE_STORE", "store"))
    return Store(root, fresh=fresh, on_event=display.event, on_progress=display.progress, on_note=display.note)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the page and results.json go.")] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(help="Training seeds: 3 or more show training noise.")] = 1,
    full: Annotated[bool, typer.Option(help="Evaluate on 1,050 prompts of each kind instead of 350.")] = False,
    base: Annotated[BaseName, typer.Option(help="Which base; all but small are made on first use.")] = BaseName.small,
    tension: Annotated[Optional[float], typer.Option(help="How far the two aims pull apart.")] = None,  # noqa: UP045
    methods: Annotated[
        str,
        typer.Option(help="Of sacpo, bfpo, cpo, modpo, safedpo, mocan, pecan, cdpo, safe_rlhf, iteralign; or all."),
    ] = "sacpo",
) -> None:
    """Align a small model in the playground in several ways and write a page: no download, no GPU."""
    from equipoise.arms import named_methods
    from equipoise.bench import World
    from equipoise.demo import run_demo

    world = World(base=base.value) if tension is None else World(base=base.value, tension=tension)
    with Display(errors) as display, using_store(_store(display)):
        names = named_methods([name.strip() for name in methods.split(",") if name.strip()])
        run_demo(out, seeds=seeds, say=display.say(console), full=full, world=world, methods=names)


@app.command()
def init(
    files: Annotated[Optional[list[str]], typer.Argument(help="Files, folders or hub ids.")] = None,  # noqa: UP045
    role: Annotated[list[str], typer.Option(help="helpful=FILE, safe=FILE or buffer=FILE; repeatable.")] = [],  # noqa: B006
    base: Annotated[Optional[str], typer.Option(help="The model to align: a directory or a hub id.")] = None,  # noqa: UP045
    to: Annotated[Path, typer.Option(help="The config to write; must not exist.")] = Path("config.yaml"),
    method: Annotated[Optional[str], typer.Option(help="Which method, instead of the best fit.")] = None,  # noqa: UP045
    map_: Annotated[list[str], typer.Option("--map", help="target=column, may be given several times.")] = [],  # noqa: B006
    split: Annotated[Optional[str], typer.Option(help="Split of hub sets and folders.")] = None,  # noqa: UP045
) -> None:
    """Say which methods your files can train and write a config: equipoise init FILE [FILE ...]."""
    from equipoise.starting import Wish, named
    from equipoise.starting import init as start

    wish = Wish(tuple(files or ()), named(role, "--role"), base, to, method, named(map_, "--map"), split)
    for line in start(wish):
        console.print(line, soft_wrap=True)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="A YAML file of settings.")],
    set_: Annotated[list[str], typer.Option("--set", help="key=value, may be given several times.")] = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and what is there.")] = False,
    fresh: Annotated[list[str], typer.Option(help="Compute this stage again although it is there.")] = [],  # noqa: B006
) -> None:
    """Run one method on your data: equipoise run CONFIG.yaml [--key value ...]."""
    from equipoise.runs import execute, load_run, planned, stage_plan

    asked = load_run(config, [*set_, *_assignments(context.args)])
    if asked.config.store is not None and _state["store"] is None:
        _state["store"] = asked.config.store
    with Display(errors) as display, using_store(_store(display, tuple(fresh))):
        asked.check_data(offline=dry_run)
        plan = planned(asked)
        for name in fresh:
            if name not in (stages := {stage for stage, _, _ in plan}):
                raise SettingError(f"--fresh {name}: the run has no such stage{nearest(name, stages)}")
        if fresh or any(state != "there" for _, _, state in plan):
            asked.check_model(offline=dry_run)
            if not dry_run:
                asked.check_endpoints()
        if dry_run:
            console.print(stage_plan(asked))
            return
        execute(asked, say=display.say(console))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def advise(
    context: typer.Context,
    config: Annotated[Optional[str], typer.Argument(help="A YAML file; without one, the playground.")] = None,  # noqa: UP045
    set_: Annotated[list[str], typer.Option("--set", help="key=value, may be given several times.")] = [],  # noqa: B006
) -> None:
    """Say before any training what a level of safety will cost: equipoise advise [CONFIG.yaml] [--key value ...]."""
    from equipoise.advising import advise as answer
    from equipoise.advising import read_advise

    words = context.args
    if config is not None and config.startswith("--"):  # without a file, the first key is taken for one
        config, words = None, [config, *words]
    assignments = [*set_, *_assignments(words)]
    asked = None if config is None else read_advise(Path(config), assignments)
    if asked is not None and asked.store is not None and _state["store"] is None:
        _state["store"] = asked.store
    with Display(errors) as display, using_store(_store(display)):
        if asked is not None:
            answer(asked, say=display.say(console))
        else:
            from equipoise.solving import advise_playground

            advise_playground(assignments, say=display.say(console))


def _assignments(words: list[str]) -> list[str]:
    """`--key value` and `--key=value` as key=value."""
    out = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            raise SettingError(f"'{word}' is not of the form --key value")
        name, sign, value = word[2:].partition("=")
        if not sign:
            following = next(rest, None)
            if following is None:
                raise SettingError(f"--{name} needs a value")
            value = following
        out.append(f"{name}={value}")
    return out


@data_app.command("check")
def data_check(
    path: Annotated[str, typer.Argument(help="A file, a folder or a hub id.")],
    axis: Annotated[Optional[str], typer.Option(help="What pairs are ordered by: better or safer.")] = None,  # noqa: UP045
    map_: Annotated[list[str], typer.Option("--map", help="target=column, may be given several times.")] = [],  # noqa: B006
    format_: Annotated[Optional[str], typer.Option("--format", help="Layout, when it is not recognised.")] = None,  # noqa: UP045
    revision: Annotated[Optional[str], typer.Option(help="Revision of a hub set.")] = None,  # noqa: UP045
    split: Annotated[Optional[str], typer.Option(help="Split of a hub set or folder.")] = None,  # noqa: UP045
) -> None:
    """Count what a file holds, show what is wrong with it and say what would be dropped."""
    from equipoise.data.check import check, render

    entry = _entry(path, map_, axis=axis, format=format_, revision=revision, split=split)
    console.print(render(check(entry)), highlight=False, markup=False, soft_wrap=True)


@data_app.command("show")
def data_show(
    path: Annotated[str, typer.Argument(help="A file, a folder or a hub id.")],
    rows: Annotated[int, typer.Option(min=1, help="How many rows.")] = 3,
    model: Annotated[Optional[str], typer.Option(help="Whose tokens and template; without it, words.")] = None,  # noqa: UP045
    chat_template: Annotated[Optional[str], typer.Option(help="Instead of the model's own.")] = None,  # noqa: UP045
    full: Annotated[bool, typer.Option(help="Leave nothing out of long rows.")] = False,
    axis: Annotated[Optional[str], typer.Option(help="What pairs are ordered by: better or safer.")] = None,  # noqa: UP045
    map_: Annotated[list[str], typer.Option("--map", help="target=column, may be given several times.")] = [],  # noqa: B006
    format_: Annotated[Optional[str], typer.Option("--format", help="Layout, when it is not recognised.")] = None,  # noqa: UP045
    revision: Annotated[Optional[str], typer.Option(help="Revision of a hub set.")] = None,  # noqa: UP045
    split: Annotated[Optional[str], typer.Option(help="Split of a hub set or folder.")] = None,  # noqa: UP045
) -> None:
    """Print training rows token by token, as the model will read them, and mark what is trained."""
    from equipoise.showing import show

    entry = _entry(path, map_, axis=axis, format=format_, revision=revision, split=split)
    plain = console.no_color or console.color_system is None
    for part in show(entry, rows=rows, model=model, chat_template=chat_template, full=full, plain=plain):
        console.print(part, highlight=False)


def _entry(path: str, columns: list[str], **given: str | None) -> DataEntry:
    """The data entry that the options of a command describe."""
    from equipoise.data.sources import data_entry

    keys = {key: value for key, value in given.items() if value is not None}
    return data_entry({"path": path, "map": dict(item.partition("=")[::2] for item in columns), **keys})


@objective_app.command("check")
def objective_check(
    name: Annotated[str, typer.Argument(help="FILE.py:NAME, PACKAGE.MODULE:NAME, or a built-in one such as dpo.")],
    set_: Annotated[list[str], typer.Option("--set", help="key=value, may be given several times.")] = [],  # noqa: B006
) -> None:
    """Say what an objective needs and does, and try it: shape, gradient, where training starts."""
    from equipoise.config import override
    from equipoise.objectives import bind, objective

    chosen = objective(name)
    settings = bind(chosen, override({}, set_))
    from equipoise.objectives.check import report  # torch: not before the refusals that need none

    console.print(report(chosen, settings), highlight=False, markup=False, soft_wrap=True)
    console.print("OK")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def chat(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A model directory (of a run, a merge, an adapter) or a hub id.")],
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest word every time.")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    seed: Annotated[int, typer.Option(help="The same seed and questions, the same answers.")] = 0,
    chat_template: Annotated[Optional[str], typer.Option(help="For tokenizers without one.")] = None,  # noqa: UP045
) -> None:
    """Talk to a model: equipoise chat MODEL [--helpfulness 5 --honesty 5 ...], the objectives being the model's own."""
    from equipoise.chat import change, open_dialogue
    from equipoise.generate import Sampling

    given = dict(item.partition("=")[::2] for item in _assignments(context.args))
    settings = {"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed}
    dialogue = open_dialogue(model, given, Sampling.make(settings, where="chat"), chat_template=chat_template)
    while True:
        try:
            text = console.input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            if text.startswith("/"):
                change(dialogue, text, model=model)
            elif text:
                dialogue.answer(text, say=_say_piece, note=lambda remark: errors.print(f"({remark})", style="dim"))
                console.print()
        except UserError as error:  # one bad line is no reason to lose the dialogue
            errors.print(Text.assemble(("error:", "bold red"), f" {error}"), highlight=False, soft_wrap=True)


def _say_piece(piece: str) -> None:
    console.print(piece, end="", markup=False, highlight=False, soft_wrap=True)


@app.command()
def merge(
    models: Annotated[list[str], typer.Argument(help="Model directories, or adapters over one base.")],
    weights: Annotated[str, typer.Option(help="One number per model, separated by commas.")],
    to: Annotated[Path, typer.Option(help="Directory for the merged model; must not exist.")],
) -> None:
    """Merge models linearly, tensor by tensor."""
    from equipoise.models.merge_any import merge_models

    try:
        numbers = tuple(float(w) for w in weights.split(","))
    except ValueError as error:
        raise SettingError(f"--weights must be numbers separated by commas, got '{weights}'") from error
    if to.exists():
        raise SettingError(f"--to {to} is there already: choose another directory")
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(f".{to.name}.part{os.getpid()}")
    try:
        merge_models(models, numbers, partial)
        partial.rename(to)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    console.print(f"merged into {to}", markup=False, soft_wrap=True)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
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
    assignments = _assignments((words or [])[len(models) :])
    asked = asked_for(models, config, [*set_, *assignments], playground=playground)
    if asked.store is not None and _state["store"] is None:
        _state["store"] = asked.store
    with Display(errors) as display, using_store(_store(display)):
        evaluate_as_asked(asked, say=display.say(console))


@app.command()
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


@app.command()
def gate(
    rules: Annotated[Path, typer.Argument(help="A YAML file of rules.")],
    baseline: Annotated[Optional[Path], typer.Option(help="The results.json to compare with.")] = None,  # noqa: UP045
    candidate: Annotated[Optional[str], typer.Option(help="A results.json, a model directory or a hub id.")] = None,  # noqa: UP045
    endpoint: Annotated[Optional[str], typer.Option(help="What is served: http://HOST:PORT/v1.")] = None,  # noqa: UP045
    out: Annotated[Path, typer.Option(help="Where gate.md, gate.xml and the candidate's results go.")] = Path("gate"),
) -> None:
    """Say whether a model may ship: exit code 0 every rule holds, 1 one is broken, 3 undecided, 2 a mistake."""
    from equipoise.gating import Asked, exit_code

    with Display(errors) as display, using_store(_store(display)):
        code = exit_code(Asked(rules, baseline, candidate, endpoint, out), say=display.say(console))
    raise typer.Exit(code)


@app.command()
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
    with Display(errors) as display, using_store(_store(display)):
        write(asked, say=display.say(console))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def frontier(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="A YAML file: runs and how they are evaluated, or playground: small.")],
    set_: Annotated[list[str], typer.Option("--set", help="key=value, may be given several times.")] = [],  # noqa: B006
) -> None:
    """Train methods at several settings, evaluate all alike, draw one page: equipoise frontier CONFIG.yaml."""
    from equipoise.config import override, read_yaml

    settings = override(read_yaml(config), [*set_, *_assignments(context.args)])
    if settings.get("store") is not None and _state["store"] is None:
        _state["store"] = Path(settings["store"])
    with Display(errors) as display, using_store(_store(display)) as store:
        if "playground" in settings:
            from equipoise.grid_run import GridConfig, run_grid

            grid = GridConfig.make(settings, where=str(config))
            run_grid(grid, store=store.root, console=errors, say=display.say(console))
        else:
            from equipoise.frontier_run import FrontierConfig, run_frontier

            asked = FrontierConfig.make(settings, where=str(config))
            run_frontier(asked, base_dir=Path.cwd(), console=errors, say=display.say(console))


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="A results.json, or a folder that holds one.")],
    one_page: Annotated[bool, typer.Option("--one-page", help="Only one-page.html, which prints on one sheet.")] = False,
    out: Annotated[Optional[Path], typer.Option(help="Where to write (default: where results.json lies).")] = None,  # noqa: UP045
    target: Annotated[Optional[float], typer.Option(help="Unsafe rate to hold it against, instead of its own.")] = None,  # noqa: UP045
) -> None:
    """Write the page of a run again from its results.json: equipoise report FOLDER [--one-page]."""
    from equipoise.evaluate.rerender import render_again

    path = render_again(results, out=out, one_page=one_page, target=target)
    console.print(str(path), highlight=False, markup=False, soft_wrap=True)


@app.command()
def show(
    path: Annotated[Path, typer.Argument(help="A directory of the store, a model in it, or a link to one.")],
) -> None:
    """Print what an artefact was made from and what it holds."""
    from equipoise.runs import show_artefact

    console.print(show_artefact(path), highlight=False, markup=False, soft_wrap=True)


@app.command()
def why(
    a: Annotated[Path, typer.Argument(help="A directory of the store.")],
    b: Annotated[Path, typer.Argument(help="Another one.")],
) -> None:
    """Say which settings make two artefacts different."""
    from equipoise.runs import differences

    found = differences(a, b)
    if not found:
        console.print("the two have equal specs")
    for key, left, right in found:
        console.print(f"{key}: {left} -> {right}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def version() -> None:
    """Print the version."""
    console.print(__version__)


def main() -> None:
    """Entry point: user errors become one sentence and exit code 2."""
    try:
        with FullDisk("writing results"):
            app()
    except EquipoiseError as error:
        _fail(error)


def _fail(error: EquipoiseError) -> None:
    if _state["debug"]:
        raise error
    errors.print(Text.assemble(("error:", "bold red"), f" {error}"), highlight=False, soft_wrap=True)
    sys.exit(error.exit_code)
