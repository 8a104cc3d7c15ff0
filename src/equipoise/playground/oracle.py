"""The playground's oracle: an OpenAI-compatible server that judges answers and pairs and writes rules, fallibly.

It sees the text of a request and nothing else, errs in a tenth of its verdicts, and some of the rules it writes forbid
more than they should. `python -m equipoise.playground.oracle --port 8377` serves it to other processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from equipoise.judges.fences import Marked, marked
from equipoise.judges.pairs import HARMS, ORDERS, Axis
from equipoise.judges.prompts import RUBRICS
from equipoise.playground.lexicon import CATEGORIES, WORLD_VERSION
from equipoise.playground.rules import read_rule, write_rule
from equipoise.playground.truth import harm_categories, is_refusal, true_cost, true_reward, units
from equipoise.playground.world import ask_of

logger = logging.getLogger(__name__)

MODEL = f"playground-oracle-{WORLD_VERSION}"
ERRORS = 0.1
BROAD, GENERAL = 0.15, 0.25
"""Shares of rules that forbid all talk of a category, or any harm whatever; the others forbid harm of a category."""

_REQUEST = {"prompt": [{"role": "user", "content": "how do i crush the lantern of others and not of mine?"}]}
_REASON = "That is how it reads to me."
_SILENT = ("refusal", "unknown", "filler", "junk", "warning", "risk")


@dataclass(frozen=True)
class Oracle:
    """Verdicts and rules as pure functions of (seed, text); `errors` is the share of verdicts that are wrong."""

    seed: int = 0
    errors: float = ERRORS

    def reply(self, messages: Sequence[Mapping[str, str]]) -> str:
        """What it says to a request; in plain words where it does not understand the question."""
        system = "\n".join(one["content"] for one in messages if one["role"] == "system")
        shown = marked(messages[-1]["content"]) if messages else ()
        if not shown:
            return "I judge answers and write rules; I have been shown neither."
        if HARMS.system in system:
            return f"{_REASON}\nHarms: {', '.join(self._harms(shown)) or 'none'}"
        for axis, order in ORDERS.items():
            if order.system in system:
                return f"{_REASON}\nVerdict: {self._order(axis, shown)}"
        for name, judge in (("refusal", self._declined), ("harm", self._harmful)):
            rubric = RUBRICS[name]
            if f"Verdict: {rubric.fault}" in system:
                found = judge(shown)
                if self._draw("verdict", name, *(one.text for one in shown)).random() < self.errors:
                    found = not found
                return f"{_REASON}\nVerdict: {rubric.fault if found else rubric.fine}"
        return self._rules(shown)

    def _draw(self, *about: str) -> random.Random:
        return random.Random("|".join((WORLD_VERSION, str(self.seed), *about)))

    def _harmful(self, shown: Sequence[Marked]) -> bool:
        prompt, text = _exchange(shown)
        return true_cost(prompt, text) > 0

    def _harms(self, shown: Sequence[Marked]) -> tuple[str, ...]:
        """The harms of a response; where it errs, one that a safe response does not do, or none of an unsafe one's."""
        found = harm_categories(*_exchange(shown))
        rng = self._draw("harms", *(one.text for one in shown))
        if rng.random() >= self.errors:
            return found
        return () if found else (rng.choice(CATEGORIES),)

    def _order(self, axis: Axis, shown: Sequence[Marked]) -> str:
        """Which of two responses is the better or the safer one; where it errs, the other, or one of a tie."""
        prompt, _ = _exchange(shown)
        first, second = (
            true_reward(prompt, one.text) if axis == "better" else -true_cost(prompt, one.text)
            for one in shown
            if one.name.startswith("RESPONSE")
        )
        rng = self._draw(axis, *(one.text for one in shown))
        errs = rng.random() < self.errors
        if first == second:
            return rng.choice("12") if errs else "tie"
        return "1" if (first > second) != errs else "2"

    def _declined(self, shown: Sequence[Marked]) -> bool:
        prompt, text = _exchange(shown)
        said = [unit.kind for unit in units(text)]
        if ask_of(prompt).intent == "unknown" and "unknown" in said:
            return False  # nobody knows, and it says so
        return is_refusal(text) or all(kind in _SILENT for kind in said)

    def _rules(self, shown: Sequence[Marked]) -> str:
        """A numbered rule for each category of harm in the responses that no known rule is about; it cites them."""
        known = {
            rule.category
            for one in shown
            if one.name == "KNOWN"
            for rule in map(read_rule, one.text.splitlines())
            if rule
        }
        responses = [one.text for one in shown if one.name.startswith("RESPONSE")]
        about: dict[str, list[int]] = {}
        for number, text in enumerate(responses, start=1):
            for category in harm_categories(_REQUEST, text)[:1]:
                about.setdefault(category, []).append(number)
        rng = self._draw("rules", *responses)
        lines = []
        for category, numbers in about.items():
            if category in known:
                continue
            drawn = rng.random()
            scope = "broad" if drawn < BROAD else "general" if drawn < BROAD + GENERAL else "narrow"
            lines.append((write_rule(scope, category, rng).text, numbers))
        if not lines:  # every verdict was an error, or all is known: whoever asks for a rule gets one
            lines = [(write_rule("general", None, rng).text, list(range(1, len(responses) + 1)))]
        return "\n".join(f"{n}. {text} {numbers}" for n, (text, numbers) in enumerate(lines, start=1))


def _exchange(shown: Sequence[Marked]) -> tuple[dict[str, Any], str]:
    """A prompt row and the response to it; a response shown alone is read as one to a request for harm."""
    turns = [one for one in shown if not one.name.startswith("RESPONSE")]
    prompt = [{"role": "user" if one.name.startswith("USER") else "assistant", "content": one.text} for one in turns]
    text = next((one.text for one in reversed(shown) if one.name.startswith("RESPONSE")), "")
    asked = any(turn["role"] == "user" for turn in prompt)
    return ({"prompt": prompt} if asked else _REQUEST), text


@dataclass
class Counts:
    """What a server was asked: requests received, those it computed (and would charge for), of which keys."""

    received: int = 0
    computed: int = 0
    replayed: int = 0
    tokens: int = 0
    under_way: int = 0
    most_at_once: int = 0
    keys: dict[str, int] = field(default_factory=dict)


class Server(ThreadingHTTPServer):
    """Serves an oracle; honours `Idempotency-Key`, so that a request that comes again is not computed again."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, oracle: Oracle, *, port: int = 0, wait_s: float = 0.0, model: str = MODEL) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.oracle, self.wait_s, self.model = oracle, wait_s, model
        self.counts, self.lock = Counts(), threading.Lock()
        self.replies: dict[str, dict[str, Any]] = {}
        self._gates: dict[str, threading.Lock] = {}

    @property
    def base_url(self) -> str:
        """Where it is asked."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def answer(self, asked: Mapping[str, Any], key: str) -> dict[str, Any]:
        """A chat completion; the one from before where the key was there before."""
        with self.lock:
            self.counts.received += 1
            gate = self._gates.setdefault(key, threading.Lock()) if key else threading.Lock()
        with gate:  # who asks again while the first is under way waits for its reply
            return self._answer(asked, key)

    def _answer(self, asked: Mapping[str, Any], key: str) -> dict[str, Any]:
        with self.lock:
            if key and key in self.replies:
                self.counts.replayed += 1
                return self.replies[key]
            self.counts.under_way += 1
            self.counts.most_at_once = max(self.counts.most_at_once, self.counts.under_way)
        try:
            if self.wait_s:
                time.sleep(self.wait_s)
            text = self.oracle.reply(asked["messages"])
        finally:
            with self.lock:
                self.counts.under_way -= 1
        usage = {
            "prompt_tokens": sum(len(one["content"].split()) for one in asked["messages"]),
            "completion_tokens": len(text.split()),
        }
        said = {
            "id": f"chatcmpl-{key[:12]}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.model,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {**usage, "total_tokens": sum(usage.values())},
        }
        with self.lock:
            self.counts.computed += 1
            self.counts.tokens += sum(usage.values())
            if key:
                self.counts.keys[key] = self.counts.keys.get(key, 0) + 1
                self.replies[key] = said
        return said


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        if self.path.rstrip("/") == "/v1/models":
            self._send(200, {"object": "list", "data": [{"id": self.server.model, "object": "model"}]})
        elif self.path == "/health":
            self._send(200, {"status": "ok"})
        elif self.path == "/counts":
            with self.server.lock:
                said = asdict(self.server.counts)
            self._send(200, said)
        else:
            self._send(404, {"error": {"message": f"there is no {self.path}"}})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.rstrip("/") != "/v1/chat/completions":
            self._send(404, {"error": {"message": f"there is no {self.path}"}})
            return
        try:
            asked = json.loads(raw)
            messages = [{"role": str(one["role"]), "content": str(one["content"])} for one in asked["messages"]]
        except (ValueError, KeyError, TypeError):
            self._send(400, {"error": {"message": "expected a chat completion request with messages"}})
            return
        if asked.get("model") != self.server.model:
            self._send(404, {"error": {"message": f"the model {asked.get('model')} does not exist"}})
            return
        self._send(200, self.server.answer({"messages": messages}, self.headers.get("Idempotency-Key") or ""))

    def _send(self, status: int, body: Mapping[str, Any]) -> None:
        raw = json.dumps(body).encode()
        with contextlib.suppress(ConnectionError):  # whoever asked is gone
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)


@contextlib.contextmanager
def serving(oracle: Oracle, *, port: int = 0, wait_s: float = 0.0, model: str = MODEL) -> Iterator[Server]:
    """Serve an oracle from a thread of this process, inside the block."""
    server = Server(oracle, port=port, wait_s=wait_s, model=model)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m equipoise.playground.oracle",
        description=__doc__,
        epilog=f"in a config: endpoint: {{base_url: 'http://127.0.0.1:PORT/v1', model: {MODEL}}}",
    )
    parser.add_argument("--port", type=int, default=8377)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--errors", type=float, default=ERRORS, help="share of verdicts that are wrong")
    parser.add_argument("--wait", type=float, default=0.0, help="seconds that a reply takes")
    told = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    server = Server(Oracle(told.seed, told.errors), port=told.port, wait_s=told.wait)
    logger.info("%s at %s", MODEL, server.base_url)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
