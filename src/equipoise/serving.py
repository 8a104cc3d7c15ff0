"""Models behind a server of their own: started by a command, waited for, compared, stopped for certain.

The command is a template such as `vllm serve {model} --port {port}`; what it starts speaks the OpenAI chat protocol on
127.0.0.1. No shell reads it: words are split first and filled in afterwards.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from equipoise.errors import DataError, SettingError, nearest
from equipoise.judges import Endpoint
from equipoise.types import Message

if TYPE_CHECKING:
    import httpx2

logger = logging.getLogger(__name__)

PLACEHOLDERS = ("model", "port")
_PLACE = re.compile(r"\{(\w+)\}")  # braces around anything else, such as JSON, are the program's
_GRACE_S, _TOLD_EVERY_S = 10.0, 30.0
_RETRIES = 3  # a server of our own that does not answer is broken rather than busy
_INSTALL = {
    "vllm": "pip install vllm",
    "transformers": "pip install 'equipoise[serving]'",
    "sglang": "pip install sglang",
    "llama-server": "see https://github.com/ggml-org/llama.cpp",
}
_HELLO: Message = {"role": "user", "content": "Hello, how are you?"}
_PROBES: dict[str, list[Message]] = {
    "a plain request": [_HELLO],
    "two turns": [
        _HELLO,
        {"role": "assistant", "content": "I am fine, thanks."},
        {"role": "user", "content": "What can you do?"},
    ],
    "a request with a system message": [{"role": "system", "content": "You answer in one word."}, _HELLO],
}

Read = Callable[[Sequence[Message]], Sequence[int] | None]
"""Token ids of a dialogue that waits for an answer, as in training; None where its roles cannot be rendered."""


def words_of(command: str) -> list[str]:
    """Words of a command template; SettingError where it cannot be split, or does not say where model and port go."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise SettingError(f"serve: '{command}' cannot be split into words: {str(error).lower()}") from error
    found = [name for word in words for name in _PLACE.findall(word)]
    for name in found:
        if name not in PLACEHOLDERS:
            raise SettingError(f"serve: '{command}' has an unknown placeholder {{{name}}}{nearest(name, PLACEHOLDERS)}")
    for name in PLACEHOLDERS:
        if name not in found:
            raise SettingError(
                f"serve: '{command}' does not say where the {name} goes: write {{{name}}}, as in "
                "'vllm serve {model} --port {port}'"
            )
    if _PLACE.search(words[0]):
        raise SettingError(f"serve: '{command}' must begin with a program")
    return words


def argv(command: str, *, model: str, port: int) -> list[str]:
    """The command with model and port filled in, its program looked for beside this Python first, then on the path."""
    first, *rest = words_of(command)
    beside = str(Path(sys.executable).parent)
    program = shutil.which(first, path=os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]))
    if program is None:
        if "=" in first:
            raise SettingError(f"serve: '{first}' is no program: write 'env {first} ...' to set a variable")
        way = _INSTALL.get(first, "install it, or write its whole path")
        raise SettingError(f"serve: there is no program '{first}' on this machine: {way}")
    filled = {"model": model, "port": str(port)}
    return [program, *(_PLACE.sub(lambda place: filled[place[1]], word) for word in rest)]


@contextlib.contextmanager
def served(
    command: str,
    model: str,
    *,
    log: Path,
    reads: Read | None = None,
    asks: Mapping[str, Any] | None = None,
    patience_s: float = 600.0,
    note: Callable[[str], None] = lambda text: None,
) -> Iterator[Endpoint]:
    """Serve a model directory or hub id inside the block, and yield the endpoint to ask.

    Once the server says that it is healthy, it is asked for a token, which loads what is loaded late, and where `reads`
    is given, it is asked how it reads a few dialogues: vLLM tells token ids, of others their number is compared. `asks`
    are further fields of the endpoint, the same in these requests as in those of the block, because a server may keep
    to the sampling of its first request. `log` gets what the server prints; while any process of it lives, another
    server with that log is not started. Everything is stopped when the block ends or this process dies.

    Raises SettingError for a command that cannot be run and for a template that differs, DataError for a server that
    ends early or does not answer within `patience_s` seconds.
    """
    port = _free_port()
    words = argv(command, model=model, port=port)
    with _Server.started(words, log, port, patience_s=patience_s, note=note) as server, _local_client() as http:
        server.wait_until_healthy(http)
        endpoint = Endpoint(
            base_url=f"{server.root}/v1",
            model=server.name_of(http, model),
            **{"timeout_s": patience_s, "retries": _RETRIES, **(asks or {})},
        )
        note(f"{Path(words[0]).name} is up after {server.seconds:.1f} s")
        try:
            compare_templates(
                endpoint.but(max_tokens=1, retries=0),
                reads,
                ids_of=lambda messages: server.ids_of(http, endpoint.model, messages),
                last_words=server.last_words,
            )
            note(f"first answer after {server.seconds:.1f} s")
            yield endpoint
        except DataError as error:
            if server.ended is None:
                raise
            raise DataError(f"the server {server.ended} while it was used{server.last_words()}") from error


def compare_templates(
    endpoint: Endpoint,
    reads: Read | None,
    *,
    ids_of: Read = lambda messages: None,
    last_words: Callable[[], str] = lambda: "",
    uncounted: bool = False,
) -> None:
    """Ask for one token after each of a few dialogues, and compare how they are read: ids where told, else how many.

    `uncounted` lets a server pass that does not say how many tokens it read. Raises SettingError where they differ.
    """
    from equipoise.judges.http import Ask, Client

    with Client(endpoint, None) as client:
        for at, (said, messages) in enumerate(_PROBES.items()):
            ids = reads(messages) if reads is not None else None
            if ids is None and at > 0:
                continue  # nothing to compare with
            asked = tuple({"role": m["role"], "content": m["content"]} for m in messages)
            ((_, reply),) = client.replies([Ask(asked)])
            if reply.text is None:
                raise DataError(f"the server gives no answer to {said} ({reply.fault}){last_words()}")
            theirs = ids_of(messages)
            if ids is not None and not (uncounted and theirs is None and not reply.prompt_tokens):
                _compare(said, list(ids), None if theirs is None else list(theirs), reply.prompt_tokens)


def _compare(said: str, ours: list[int], theirs: list[int] | None, length: int) -> None:
    """Refuse a server that reads a dialogue otherwise than the model was trained to."""
    remedy = "give the server the template that the model is trained with, or set chat_template to the server's"
    if theirs is not None and theirs != ours:
        pairs = enumerate(zip(ours, theirs, strict=False))
        at = next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
        raise SettingError(
            f"the server's chat template is another one: it reads {said} as {len(theirs)} tokens, training as "
            f"{len(ours)}, and they differ from token {at} on: {remedy}"
        )
    if theirs is None and length != len(ours):
        raise SettingError(
            f"the server's chat template is another one: it reads {said} as {length} tokens, training as {len(ours)}: "
            f"{remedy}"
        )


@dataclass
class _Server:
    """A server that was started, with its guard."""

    guard: subprocess.Popen[bytes]
    words: list[str]
    log: Path
    port: int
    patience_s: float
    note: Callable[[str], None]
    began: float
    _last_said: str | None = None

    @classmethod
    @contextlib.contextmanager
    def started(
        cls, words: list[str], log: Path, port: int, *, patience_s: float, note: Callable[[str], None]
    ) -> Iterator[_Server]:
        """Start it behind a guard, and stop it: the guard does so when its input is closed, also by our death."""
        began = time.monotonic()
        guard = [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py")), str(_GRACE_S), *words]
        with log.open("ab") as out:
            _wait_for_predecessor(out, log)
            out.truncate(0)
            process = subprocess.Popen(
                guard, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, start_new_session=True
            )
        note(f"starting {shlex.join(words)}, output in {log}")
        server = cls(process, words, log, port, patience_s, note, began)
        try:
            yield server
        finally:
            server.stop()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self.began

    @property
    def ended(self) -> str | None:
        """How it ended, as part of a sentence; None while it runs."""
        if self.guard.poll() is None:
            return None
        code = self._said()
        if code and not code.lstrip("-").isdigit():
            return f"did not start ({code})"
        return f"ended with exit code {code or self.guard.returncode}"

    def _said(self) -> str:
        """What the guard said at its end; nothing where it was killed."""
        if self._last_said is None:
            assert self.guard.stdout is not None
            self._last_said = self.guard.stdout.read().decode(errors="replace")
        return self._last_said

    def stop(self) -> None:
        """Let go of the guard and wait until it and its group are gone."""
        assert self.guard.stdin is not None and self.guard.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.guard.stdin.close()
        try:
            self.guard.wait(_GRACE_S + 5)
        finally:
            # A guard's last act is to kill its group; one that hangs or was killed has not.
            if self.guard.poll() is None or not self._said():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.guard.pid, signal.SIGKILL)
            self.guard.wait()
            self.guard.stdout.close()

    def last_words(self) -> str:
        """The last line of the log as the end of a sentence."""
        lines = [line.strip() for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines()]
        last = next((line for line in reversed(lines) if line), None)
        return f"; {self.log} is empty" if last is None else f"; the last line of {self.log} is: {last[:300]}"

    def wait_until_healthy(self, http: httpx2.Client) -> None:
        """Poll /health; a server without that route is ready when it lists its models."""
        told, route = self.seconds, "/health"
        while True:
            if self.ended is not None:
                raise DataError(f"'{shlex.join(self.words)}' {self.ended} before it was ready{self.last_words()}")
            status = self._status(http, route)
            if status == 200:
                return
            if status in (404, 405):
                route = "/v1/models"
            if self.seconds > self.patience_s:
                raise DataError(
                    f"'{shlex.join(self.words)}' is not healthy after {self.patience_s:g} s (patience_s)"
                    f"{self.last_words()}"
                )
            if self.seconds - told > _TOLD_EVERY_S:
                told = self.seconds
                self.note(f"waiting for {Path(self.words[0]).name} for {told:.0f} s{self.last_words()}")
            time.sleep(0.1 if self.seconds < 10 else 0.5)

    def _status(self, http: httpx2.Client, route: str) -> int | None:
        import httpx2

        try:
            return http.get(self.root + route).status_code
        except httpx2.TransportError:  # not there yet, or busy loading
            return None

    def name_of(self, http: httpx2.Client, model: str) -> str:
        """What the server calls the model: as it was told to, unless it lists one other name alone.

        transformers 5.23 lists the hub's cache instead of what it serves, and fails where there is none.
        """
        said = self._told(http, "GET", "/v1/models")
        if Path(self.words[0]).name == "transformers" or not isinstance(said.get("data"), list):
            return model
        listed = [one["id"] for one in said["data"] if isinstance(one, dict) and isinstance(one.get("id"), str)]
        return listed[0] if len(listed) == 1 else model

    def ids_of(self, http: httpx2.Client, name: str, messages: Sequence[Message]) -> list[int] | None:
        """Token ids of a dialogue where the server tells them (vLLM's /tokenize), else None."""
        asked = {"model": name, "messages": list(messages), "add_generation_prompt": True}
        tokens = self._told(http, "POST", "/tokenize", asked).get("tokens")
        return tokens if isinstance(tokens, list) else None

    def _told(self, http: httpx2.Client, method: str, route: str, asked: Any = None) -> dict[str, Any]:
        """The JSON mapping behind a route that not every server has; an empty one where there is none."""
        import httpx2

        try:
            response = http.request(method, self.root + route, json=asked)
            said = response.json() if response.is_success else {}
        except (httpx2.TransportError, ValueError):
            return {}
        return said if isinstance(said, dict) else {}


def _wait_for_predecessor(out: IO[bytes], log: Path) -> None:
    """Wait until no process writes to the log any more: what a killed stage had started is given time to stop."""
    until = time.monotonic() + _GRACE_S + 5
    while True:
        try:
            # Descriptors that are handed on share the lock, so the server and all it starts hold it.
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > until:
                raise DataError(f"a server that was started earlier still writes to {log}: stop it first") from error
            time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _local_client() -> httpx2.Client:
    """For loopback alone: proxies of the environment do not apply."""
    import httpx2

    return httpx2.Client(timeout=10.0, trust_env=False)
