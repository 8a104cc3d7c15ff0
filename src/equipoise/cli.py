"""The command line: thin functions over the rooms below, one sentence for a user's mistake."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.logging import RichHandler

from equipoise import __version__
from equipoise.errors import EquipoiseError, UserError
from equipoise.progress import Display
from equipoise.store import Store, using_store

app = typer.Typer(
    name="equipoise",
    help="Align language models to be helpful and harmless, and see what each level of safety costs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Look at preference data before training on it.", no_args_is_help=True)
app.add_typer(data_app, name="data")
console = Console()
errors = Console(stderr=True)
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
        handlers=[RichHandler(console=errors, show_path=debug, show_time=debug)],
    )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _store(display: Display, fresh: tuple[str, ...] = ()) -> Store:
    root = _state["store"] or Path(os.environ.get("EQUIPOISE_STORE", "store"))
    return Store(root, fresh=fresh, on_event=display.event, on_progress=display.progress)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the page and results.json go.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of data, base and training.")] = 0,
    full: Annotated[bool, typer.Option(help="Evaluate on 1,000 prompts of each kind instead of 350.")] = False,
) -> None:
    """Align a small model in the playground with SACPO and write a page: no download, no GPU."""
    from equipoise.demo import run_demo

    with Display(errors) as display, using_store(_store(display)):
        run_demo(out, seed=seed, say=display.say(console), full=full)


@app.command()
def version() -> None:
    """Print the version."""
    console.print(__version__)


def main() -> None:
    """Entry point: user errors become one sentence and exit code 2."""
    try:
        app(standalone_mode=False)
    except UserError as error:
        _fail(error)
    except EquipoiseError as error:
        _fail(error)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except typer.Abort:
        sys.exit(130)


def _fail(error: EquipoiseError) -> None:
    if _state["debug"]:
        raise error
    errors.print(f"[bold red]error:[/] {error}", highlight=False, soft_wrap=True)
    sys.exit(error.exit_code)
