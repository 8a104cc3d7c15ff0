"""Commands that look before training: data and objectives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from equipoise.terminal import console

if TYPE_CHECKING:
    from equipoise.data.sources import DataEntry


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
