"""The command line: thin functions over the rooms below, one sentence for a user's mistake."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.logging import RichHandler
from rich.text import Text

from equipoise import __version__, cli_data, cli_results
from equipoise.errors import EquipoiseError, SettingError, UserError, nearest
from equipoise.progress import Display
from equipoise.store import FullDisk, using_store
from equipoise.terminal import ANY_KEY, as_assignments, console, errors, open_store, state

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


class BaseName(StrEnum):
    """Bases of the playground."""

    small = "small"
    large = "large"
    rated = "rated"


def _say_version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option(help="Show tracebacks and all log lines.")] = False,
    store: Annotated[Optional[Path], typer.Option(help="Where finished stages are kept (default: ./store).")] = None,  # noqa: UP045
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    state.update(debug=debug, store=store)
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
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # it tells of every attempt, twice; errors say what came of them
    # PEFT imports it where it is installed, and it remarks on kernels that nothing here asks for.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


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
    with Display(errors) as display, using_store(open_store(display)):
        names = named_methods([name.strip() for name in methods.split(",") if name.strip()])
        run_demo(
            out, seeds=seeds, say=display.say(console), full=full, world=world, methods=names, terminal=display.pause
        )


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


@app.command(context_settings=ANY_KEY)
def run(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="A YAML file of settings.")],
    set_: Annotated[list[str], typer.Option("--set", help="key=value, may be given several times.")] = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and what is there.")] = False,
    fresh: Annotated[list[str], typer.Option(help="Compute this stage again although it is there.")] = [],  # noqa: B006
) -> None:
    """Run one method on your data: equipoise run CONFIG.yaml [--key value ...]."""
    from equipoise.runs import execute, load_run, planned, stage_plan

    asked = load_run(config, [*set_, *as_assignments(context.args)])
    if asked.config.store is not None and state["store"] is None:
        state["store"] = asked.config.store
    with Display(errors) as display, using_store(open_store(display, tuple(fresh))):
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


@app.command(context_settings=ANY_KEY)
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
    assignments = [*set_, *as_assignments(words)]
    asked = None if config is None else read_advise(Path(config), assignments)
    if asked is not None and asked.store is not None and state["store"] is None:
        state["store"] = asked.store
    with Display(errors) as display, using_store(open_store(display)):
        if asked is not None:
            answer(asked, say=display.say(console))
        else:
            from equipoise.solving import advise_playground

            advise_playground(assignments, say=display.say(console))


@app.command(context_settings=ANY_KEY)
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

    given = dict(item.partition("=")[::2] for item in as_assignments(context.args))
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


data_app.command("check")(cli_data.data_check)
data_app.command("show")(cli_data.data_show)
objective_app.command("check")(cli_data.objective_check)
app.command(context_settings=ANY_KEY)(cli_results.evaluate)
app.command()(cli_results.compare)
app.command(context_settings=ANY_KEY)(cli_results.frontier)
app.command()(cli_results.report)
app.command()(cli_results.export)
app.command()(cli_results.gate)


@app.command()
def show(
    path: Annotated[
        Path, typer.Argument(help="An artefact of the store by its id or directory, its model, or a link to one.")
    ],
) -> None:
    """Print what an artefact was made from and what it holds."""
    from equipoise.runs import show_artefact

    with Display(errors) as display, using_store(open_store(display)):
        console.print(show_artefact(path), highlight=False, markup=False, soft_wrap=True)


@app.command()
def why(
    a: Annotated[Path, typer.Argument(help="An artefact of the store: its id or directory.")],
    b: Annotated[Path, typer.Argument(help="Another one.")],
) -> None:
    """Say which settings make two artefacts different."""
    from equipoise.runs import differences

    with Display(errors) as display, using_store(open_store(display)):
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
    if state["debug"]:
        raise error
    errors.print(Text.assemble(("error:", "bold red"), f" {error}"), highlight=False, soft_wrap=True)
    sys.exit(error.exit_code)
