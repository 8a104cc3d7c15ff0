"""`equipoise init`: look at a user's files, say which methods their labels can feed, write a config that runs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from rich.text import Text

from equipoise.config import read_yaml
from equipoise.data.check import CheckReport, check
from equipoise.data.columns import UnknownLayout
from equipoise.data.formats import LAYOUTS
from equipoise.data.sources import DataEntry, data_entry, open_entry, read_rows
from equipoise.errors import DataError, SettingError, UserError, nearest
from equipoise.methods.drafts import STAND_IN, draft
from equipoise.methods.fits import METHODS, ROLES, Fit, Source, best, fits
from equipoise.methods.run import Run
from equipoise.models.load import ModelName
from equipoise.store import write_text

_LOOKED_AT = 2000  # rows in which the ends of rating scales are looked for


@dataclass(frozen=True)
class Wish:
    """What was typed: files, and (role, file) pairs; `columns` (target, column) and `split` belong to all of them."""

    files: tuple[str, ...] = ()
    roles: tuple[tuple[str, str], ...] = ()
    base: str | None = None
    to: Path = Path("config.yaml")
    method: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    split: str | None = None

    @property
    def command(self) -> str:
        """The command line that says the same."""
        words = ["equipoise", "init", *self.files]
        for option, pairs in (("--role", self.roles), ("--map", self.columns)):
            words += [word for name, value in pairs for word in (option, f"{name}={value}")]
        for option, value in (("--split", self.split), ("--base", self.base), ("--method", self.method)):
            words += [option, value] if value is not None else []
        words += ["--to", str(self.to)] if self.to != Path("config.yaml") else []
        return shlex.join(words)

    def with_roles(self, *roles: tuple[str, str]) -> Wish:
        """The same with more roles; a file that has one need not be named besides."""
        named = {path for _, path in (*self.roles, *roles)}
        return replace(self, files=tuple(f for f in self.files if f not in named), roles=(*self.roles, *roles))


def named(words: Sequence[str], option: str) -> tuple[tuple[str, str], ...]:
    """Return the `name=value` words of an option as pairs; SettingError for other words."""
    pairs = [word.partition("=") for word in words]
    for word, (name, _, value) in zip(words, pairs, strict=True):
        if not (name and value):
            example = "helpful=FILE" if option == "--role" else "prompt=COLUMN"
            raise SettingError(f"{option} {word} is not of the form name=value, as in {option} {example}")
    return tuple((name, value) for name, _, value in pairs)


def init(wish: Wish) -> Iterator[Text]:
    """Look, say what can run, write the config; yields what to print.

    The config is read as `equipoise run --dry-run` would read it before it is left. SettingError or DataError in one
    sentence, and nothing is written, where a file cannot be read, its order has no meaning yet, or no method can run.
    """
    _check(wish)
    sources = look(wish)
    found = fits(sources)
    chosen = _asked_for(wish, found) if wish.method else best(found)
    for source in sources:
        yield Text.assemble((source.entry.path, "bold"), f": {_held(source.report)}")
    yield Text("\nwhat these labels can train")
    for fit in found:
        mark = ("yes", "green") if fit.possible else ("no", "red")
        arrow = "→" if fit is chosen else " "
        name = (f"{arrow} {fit.method:<8}", "bold" if fit is chosen else "")
        yield Text.assemble(name, mark, f": {fit.words}")
    if chosen is None:
        raise DataError(f"no method can run on {', '.join(source.entry.path for source in sources)} as it is labelled")
    if not chosen.data:
        raise SettingError(f"these labels fit more than one aim: say which, as in {_commands(wish, chosen)}")
    _write(wish, draft(chosen, base=wish.base, command=wish.command))
    yield from _next(wish, chosen, sources)


def _check(wish: Wish) -> None:
    """Refuse what needs no look at the files."""
    if not wish.files and not wish.roles:
        raise SettingError("name the files to start from, as in `equipoise init data.jsonl`")
    if wish.to.exists():
        raise SettingError(f"{wish.to} is there already and stays as it is: choose another name with --to")
    if not wish.to.parent.is_dir():
        raise SettingError(f"--to {wish.to}: there is no folder {wish.to.parent}")
    if wish.method is not None and wish.method not in METHODS:
        raise SettingError(f"--method {wish.method} is unknown{nearest(wish.method, METHODS)}")
    for role, path in wish.roles:
        if role not in ROLES:
            raise SettingError(f"--role {role}={path}: there is no role {role}{nearest(role, ROLES)}")
    if wish.base is not None:
        base = ModelName.parse(wish.base)
        files = ("config.json", "adapter_config.json")
        if base.is_local and not any((Path(base.location) / file).is_file() for file in files):
            raise SettingError(f"--base {wish.base}: the directory holds no model, there is no config.json in it")


# -- looking ---------------------------------------------------------------------------------------------------------


def look(wish: Wish) -> list[Source]:
    """Read every file and what its labels say; an order that nobody gave a meaning is asked for, never guessed."""
    with_role = {path for _, path in wish.roles}
    items: list[tuple[str, str | None]] = [(path, None) for path in wish.files if path not in with_role]
    items = list(dict.fromkeys([*items, *((path, role) for role, path in wish.roles)]))
    entries = [(_entry(path, role, wish), role) for path, role in items]
    unclear = [path for (path, _), (entry, _) in zip(items, entries, strict=True) if entry is None]
    if unclear:
        raise SettingError(_ask_for_roles(wish, unclear))
    for path in sorted(with_role):
        axes = {entry.axis for (other, _), (entry, _) in zip(items, entries, strict=True) if other == path and entry}
        if {"better", "safer"} <= axes and not _orders_twice(path, wish):
            raise SettingError(f"{path} orders its answers once, which cannot mean helpful and safe: give it one role")
    sources = [_source(entry, role) for entry, role in entries if entry is not None]
    if all(source.report.layout == "text" for source in sources):
        raise DataError(
            f"{sources[0].entry.path} holds documents without prompts, which only the pretraining of a base "
            "from scratch can use: give prompts with answers"
        )
    if all(set(source.report.present) <= {"prompt only", "category"} for source in sources):
        first = sources[0]
        columns = first.report.columns
        mapped = replace(wish, columns=(("completion", "COLUMN"),))
        raise DataError(
            f"{first.entry.path} holds prompts without answers (columns {', '.join(columns)}): if other columns hold "
            f"answers, name them, as in `{mapped.command}`; nearest layouts: {near_layouts(columns)}"
        )
    return sources


def _entry(path: str, role: str | None, wish: Wish) -> DataEntry | None:
    """Return a file as a config would name it; None where its order needs a role. Raises what `open_entry` raises."""
    keys: dict[str, Any] = {"path": path, "map": dict(wish.columns)}
    if wish.split is not None and not Path(path).is_file():
        keys["split"] = wish.split
    plain = data_entry(keys)
    try:
        opened = open_entry(plain)
    except UnknownLayout as problem:
        raise DataError(_unknown(path, problem, wish)) from None
    except SettingError as problem:
        axis = ROLES.get(role or "helpful")
        ordered = plain.model_copy(update={"axis": axis})
        try:
            opened = open_entry(ordered)
        except UserError:
            raise problem from None
        if role is not None:
            return ordered
        rated = plain.model_copy(update={"format": "rated-pairs"})
        return rated if wish.method == "cpo" and opened.layout.name == "responses" else None
    if role in ("helpful", "safe") and opened.layout.name == "pku":
        plain = plain.model_copy(update={"axis": ROLES[role]})
        open_entry(plain)
    return plain


def _orders_twice(path: str, wish: Wish) -> bool:
    entry = _entry(path, None, wish)
    return entry is not None and open_entry(entry).layout.name == "pku"


def _source(entry: DataEntry, role: str | None) -> Source:
    rows = list(islice(read_rows(entry, dropped=[]), _LOOKED_AT))
    found: dict[str, list[float]] = {}
    for name, rating in (item for row in rows for answer in row.responses for item in answer.ratings.items()):
        found.setdefault(name, []).append(rating)
    source = Source(
        entry,
        check(entry),
        role,
        scales={name: (min(r), max(r)) for name, r in found.items() if min(r) < max(r)},
        several=any(len(row.responses) > 1 for row in rows),
        undesirable=any(row.desirable is False for row in rows),
    )
    if role is not None and not any(map(source.has, ("better", "safer", "label", "safe flags"))):
        raise SettingError(
            f"--role {role}={entry.path}: the file orders no answers and flags none, so a role says nothing about it: "
            "name it without"
        )
    return source


def _unknown(path: str, problem: UnknownLayout, wish: Wish) -> str:
    """Say what the columns are, and the command that names them."""
    if problem.answers:
        mapped = replace(wish, columns=(*wish.columns, ("completion", problem.answers[0])))
        return (
            f"{path} has prompts and perhaps answers ({', '.join(problem.answers)}), which is not guessed: type "
            f"`{mapped.command}` if they are"
        )
    mapped = replace(wish, columns=(("prompt", "COLUMN"), ("chosen", "COLUMN"), ("rejected", "COLUMN")))
    return (
        f"{path} has columns of no known layout ({', '.join(problem.columns)}): say which of them holds what, as in "
        f"`{mapped.command}`; nearest layouts: {near_layouts(problem.columns)}"
    )


def near_layouts(columns: Sequence[str]) -> str:
    """Say which trainable layouts need the fewest columns more, and which these are."""
    has = set(columns)
    ranked = []
    for layout in LAYOUTS.values():
        if layout.name in ("prompts", "text", "hh", "rated-pairs"):
            continue
        lacking = sorted(layout.needs - has) + (["prompt"] if layout.prompts and not layout.prompts & has else [])
        ranked.append((-len(layout.needs & has), len(lacking), layout.name, lacking))
    nearest_ones = sorted(ranked)[:2] if min(ranked)[0] < 0 else [r for r in ranked if r[2] in ("pairs", "completion")]
    return "; ".join(f"{name} (lacks {', '.join(lacking) or 'nothing'})" for _, _, name, lacking in nearest_ones)


def _ask_for_roles(wish: Wish, paths: Sequence[str]) -> str:
    """Ask what orders mean, with the command to type."""
    if len(paths) == 1:
        helpful, safe = (wish.with_roles((role, paths[0])).command for role in ("helpful", "safe"))
        return (
            f"{paths[0]} orders its answers but does not say by what, which is never guessed: type `{helpful}` if the "
            f"preferred answer is the more helpful one, or `{safe}` if it is the safer one"
        )
    roles = ("helpful", "safe", *("helpful" for _ in paths[2:]))
    return (
        f"{', '.join(paths[:-1])} and {paths[-1]} order their answers but do not say by what, which is never guessed: "
        f"type, for instance, `{wish.with_roles(*zip(roles, paths, strict=True)).command}` (helpful: the preferred "
        "answer is the more helpful one; safe: the safer one)"
    )


# -- choosing --------------------------------------------------------------------------------------------------------


def _asked_for(wish: Wish, found: Sequence[Fit]) -> Fit:
    fit = next(fit for fit in found if fit.method == wish.method)
    if not fit.possible:
        raise SettingError(f"--method {fit.method} cannot run on these labels: {fit.words}")
    if not fit.data:
        raise SettingError(
            f"--method {fit.method} trains on one kind of label, and there are several ({fit.words}): say which, as in "
            f"{_commands(wish, fit)}"
        )
    return fit


def _commands(wish: Wish, fit: Fit) -> str:
    """The command line for each way there is to use a method, the files of the other ways left out."""
    typed = [
        replace(
            wish,
            method=fit.method,
            files=() if role in ROLES else tuple(source.entry.path for source in sources),
            roles=tuple((role, source.entry.path) for source in sources if role in ROLES),
        ).command
        for role, sources in fit.ways.items()
    ]
    return " or ".join(f"`{command}`" for command in typed)


# -- writing ---------------------------------------------------------------------------------------------------------


def _write(wish: Wish, text: str) -> None:
    """Leave the config only if `equipoise run` would take it."""
    tried = wish.to.with_name(f".{wish.to.name}.tried{os.getpid()}")
    write_text(tried, text)
    try:
        Run.read(read_yaml(tried), base_dir=Path.cwd()).check_data(offline=True)
        os.link(tried, wish.to)  # unlike a rename it fails where somebody wrote the file meanwhile
    except FileExistsError:
        raise SettingError(f"{wish.to} is there already and stays as it is: choose another name with --to") from None
    finally:
        tried.unlink(missing_ok=True)


def _held(report: CheckReport) -> str:
    held = ", ".join(f"{name} {count:,}" for name, count in report.present.items())
    unreadable = f"; unreadable {sum(report.unreadable.values()):,}" if report.unreadable else ""
    return f"{report.rows:,} rows, layout {report.layout} ({held}){unreadable}"


def _next(wish: Wish, chosen: Fit, sources: Sequence[Source]) -> Iterator[Text]:
    """What was written, and what to do now."""
    used = [source for found in chosen.data.values() for source in found]
    left = [source.entry.path for source in sources if source not in used]
    if left:
        yield Text(f"\nnot used by {chosen.method}: {', '.join(left)}")
    model = "" if wish.base else f"; its model is a small stand-in, {STAND_IN}: put yours under model_name_or_path"
    yield Text(f"\nwrote {wish.to}: {chosen.method}{model}")
    entry = used[0].entry
    given = [("--axis", entry.axis), ("--split", entry.split), ("--format", entry.format)]
    words = [*(word for option, value in given if value is not None for word in (option, value))]
    words += [word for target, column in entry.map.items() for word in ("--map", f"{target}={column}")]
    words += ["--model", wish.base] if wish.base else []
    yield Text(f"  {shlex.join(['equipoise', 'data', 'show', entry.path, *words])}")
    yield Text(f"  {shlex.join(['equipoise', 'run', str(wish.to), '--dry-run'])}")
