"""The client of judges and oracles against a real server on loopback that misbehaves as told."""

from __future__ import annotations

import email.utils
import json
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty import MODEL, Asked, Does, Server, completion, fine
from judge_worker import asks

from equipoise.errors import BudgetSpent, DataError, SettingError, StoppedError
from equipoise.judges import Endpoint, patience
from equipoise.judges.cache import Cache, Spent
from equipoise.judges.completions import same_model
from equipoise.judges.http import Ask, Client, Reply

WORKER = Path(__file__).parent / "judge_worker.py"


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.01)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def cache(tmp_path) -> Iterator[Cache]:
    with Cache(tmp_path / "replies.sqlite") as made:
        yield made


def endpoint(server: Server, **settings: Any) -> Endpoint:
    return Endpoint.make({"base_url": server.url, "model": MODEL, "concurrency": 4, **settings})


def ask_all(endpoint: Endpoint, cache: Cache | None, asks: list[Ask], **rest: Any) -> list[Reply]:
    with Client(endpoint, cache) as client:
        found = dict(client.replies(asks, **rest))
    assert sorted(found) == list(range(len(asks)))
    return [found[index] for index in range(len(asks))]


def one(endpoint: Endpoint, cache: Cache | None) -> Reply:
    (reply,) = ask_all(endpoint, cache, asks(1))
    return reply


def first_then_fine(does: Does):
    return lambda asked: does if asked.time_of_all == 1 else fine(asked)


def test_replies_are_kept_and_cost_once(server, cache):
    seen: list[tuple[int, int]] = []
    priced = endpoint(server, price={"prompt": 100, "completion": 1000}, extra={"stop": ["\n"]}, max_tokens=7)
    first = ask_all(priced, cache, asks(6), progress=lambda done, total: seen.append((done, total)))
    assert [r.text for r in first] == [f"re: question {i}" for i in range(6)]
    assert first[0]._replace(key="") == Reply("re: question 0", "stop", 10, 5, MODEL, False, "", None)
    assert seen == [(i, 6) for i in range(1, 7)]
    assert server.bodies[0].keys() == {"model", "messages", "temperature", "top_p", "max_tokens", "stop"}
    assert set(server.requests) == {r.key for r in first} and set(server.requests.values()) == {1}
    with Client(priced, cache) as client:
        again = [reply for _, reply in client.replies(asks(6))]
        assert again == [r._replace(cached=True) for r in first]
        assert client.spent() == Spent(6, 60, 30, pytest.approx(6 * (10 * 100 + 5 * 1000) / 1e6), cached=6)
    assert len(server.bodies) == 6
    with Client(priced, cache, account="another") as client:
        assert client.spent() == Spent(0, 0, 0, None, 0)


def test_what_decides_whether_a_reply_is_the_same(server, cache):
    base = one(endpoint(server), cache)
    for change in ({"temperature": 0.5}, {"max_tokens": 9}, {"seed": 1}, {"extra": {"stop": "x"}}, {"identity": "me"}):
        assert not one(endpoint(server, **change), cache).cached
    for change in ({"concurrency": 1}, {"retries": 0}, {"timeout_s": 9}, {"price": {"prompt": 1}}):
        assert one(endpoint(server, **change), cache) == base._replace(cached=True)
    assert len(server.bodies) == 6


def test_an_identity_survives_a_move(server, cache):
    one(endpoint(server, identity="oracle"), cache)
    assert one(endpoint(server, identity="oracle", base_url="http://127.0.0.1:9/v1"), cache).cached


def test_repeats_are_asked_apart_and_equal_asks_once(server, cache):
    (message,) = asks(1)
    found = ask_all(endpoint(server, seed=5), cache, [message, message._replace(repeat=1), message])
    assert [body["seed"] for body in sorted(server.bodies, key=lambda b: b["seed"])] == [5, 6]
    assert found[0].key == found[2].key != found[1].key and [r.cached for r in found].count(True) == 1


def test_without_a_cache_the_client_remembers(server):
    with Client(endpoint(server), None) as client:
        for _ in range(2):
            assert len(list(client.replies(asks(3)))) == 3
        assert client.spent()[0] == 3 and client.spent().cached == 3 and len(server.bodies) == 3


@pytest.mark.parametrize(
    "does",
    [
        Does(429, {"error": {"message": "busy"}}),
        Does(500),
        Does(503, raw=b"<html>"),
        Does(drop=True),
        Does(wait_s=0.4, said=completion("late")),
    ],
    ids=["429", "500", "503", "dropped", "stalled"],
)
def test_what_passes_is_asked_again(server, cache, does):
    server.does = first_then_fine(does)
    reply = one(endpoint(server, timeout_s=0.2), cache)
    assert reply.text == "re: question 0" and reply.fault is None
    assert list(server.requests.values()) == [2] and server.requests.keys() == {reply.key}


def test_a_server_says_when_to_come_back(server, cache):
    server.does = first_then_fine(Does(429, headers={"Retry-After": "0.3"}))
    one(endpoint(server), cache)
    assert 0.3 <= server.times[1] - server.times[0] < 0.6
    server.times.clear()
    date = email.utils.formatdate(time.time() + 1.9, usegmt=True)
    server.does = lambda asked: Does(503, headers={"Retry-After": date}) if len(server.times) == 1 else fine(asked)
    one(endpoint(server, seed=1), cache)
    assert 0.5 <= server.times[1] - server.times[0] < 2.5


def test_asking_to_wait_for_a_year_is_bounded(server, cache, monkeypatch):
    monkeypatch.setattr(patience, "LONGEST_ASKED_S", 0.05)
    server.does = first_then_fine(Does(429, headers={"Retry-After": "31536000"}))
    assert one(endpoint(server), cache).text == "re: question 0"


def test_one_request_that_never_works_is_a_fault_of_its_own(server, cache):
    server.does = lambda asked: Does(500, {"error": "overflow"}) if asked.text == "question 3" else fine(asked)
    found = ask_all(endpoint(server, retries=2), cache, asks(8))
    assert found[3].text is None and found[3].fault == "no answer after 3 attempts (status 500, 'overflow')"
    assert [r.text for i, r in enumerate(found) if i != 3] == [f"re: question {i}" for i in range(8) if i != 3]
    assert server.requests[found[3].key] == 3
    with Client(endpoint(server), cache) as client:
        assert client.spent().requests == 7  # nobody was answered the eighth time


def test_an_endpoint_that_dies_on_the_way_ends_the_run(server, cache):
    server.does = lambda asked: fine(asked) if asked.time_of_all <= 3 else Does(500)
    with pytest.raises(DataError, match=r"did not answer 3 requests in a row, after 2 attempts each \(status 500\)"):
        ask_all(endpoint(server, retries=1, concurrency=2), cache, asks(30))
    assert len(server.bodies) < 15
    server.does = fine
    assert sum(r.cached for r in ask_all(endpoint(server), cache, asks(30))) == 3


@pytest.mark.parametrize(
    ("does", "fault"),
    [
        (Does(raw=json.dumps(completion("yes")).encode()[:-30]), "a body that is not JSON"),
        (Does(raw=b"\xff\xfe\x00garbage"), "a body that is not JSON"),
        (Does(raw=b"[" * 100_000), "a body that is not JSON"),
        (Does(raw=b""), "a body that is not JSON"),
        (Does(raw=b"{}", headers={"Content-Encoding": "gzip"}), "a body that cannot be decoded"),
        (Does(said=["yes"]), "a body that is not a chat completion"),
        (Does(said={"choices": []}), "a body that is not a chat completion"),
        (Does(said={"choices": [{"text": "yes"}]}), "a body that is not a chat completion"),
        (Does(said=completion(None)), "a message without text"),
        (Does(said=completion("yes", model="other-7b")), "a reply of another model, 'other-7b'"),
        (Does(said=completion("yes", finish="content_filter")), "withheld by the endpoint's content filter"),
        (Does(400, {"error": {"code": "content_filter"}}), "withheld by the endpoint's content filter"),
    ],
)
def test_what_is_no_reply_is_a_fault_and_neither_asked_again_nor_kept(server, cache, does, fault):
    server.does = lambda asked: does
    reply = one(endpoint(server), cache)
    assert (reply.text, reply.fault, reply.cached) == (None, fault, False) and len(server.bodies) == 1
    server.does = fine
    assert one(endpoint(server), cache).text == "re: question 0" and len(server.bodies) == 2
    with Client(endpoint(server), cache) as client:
        assert client.spent().requests == 2  # it was answered, and may have to be paid


def test_odd_but_well_formed_replies_are_kept(server, cache):
    for text in ("", "\ud800 half", "x" * 100_000, "line\nline\0"):
        server.does = lambda asked, text=text: Does(said=completion(text, finish="length", model=None))
        settings = endpoint(server, extra={"n": len(text)})
        reply = one(settings, cache)
        assert reply.text == text.replace("\ud800", "\ufffd") and reply.finish == "length" and reply.model is None
        assert one(settings, cache) == reply._replace(cached=True)


def test_names_of_one_model():
    for asked, told in (("gpt-x", "gpt-x-2024-08-06"), ("org/Judge-1", "judge-1"), ("/a/b/m/", "m"), ("m", "/a/M")):
        assert same_model(asked, told)
    assert not same_model("gpt-4", "gpt-3.5") and not same_model("org/a", "org/b")


def test_missing_usage_counts_nothing_and_is_said_once(server, cache, caplog):
    server.does = lambda asked: Does(said=completion("yes", usage=False))
    with caplog.at_level(logging.INFO):
        found = ask_all(endpoint(server), cache, asks(5))
    assert {r.completion_tokens for r in found} == {0}
    assert [r.message for r in caplog.records].count(f"the endpoint {server.url} does not say how many tokens it used: "
                                                    "they are counted as 0") == 1  # fmt: skip


@pytest.mark.parametrize(
    ("status", "said", "kind", "sentence"),
    [
        (
            401,
            {"error": {"message": "bad key s3cret"}},
            SettingError,
            r"refused the key in .* JUDGE_KEY \(status 401, 'ba",
        ),
        (403, {}, SettingError, r"refused the key in the environment variable JUDGE_KEY \(status 403\)"),
        (404, {}, SettingError, r"knows no model 'org/judge' \(did you mean 'org/Judge-1'\?\)"),
        (400, {"error": "too long"}, DataError, r"refused a request: status 400, 'too long'"),
        (422, {"detail": "messages"}, DataError, r"refused a request: status 422, 'messages'"),
        (302, {}, DataError, r"refused a request: status 302"),
    ],
)
def test_refusals_are_one_sentence_at_once(server, cache, monkeypatch, status, said, kind, sentence):
    monkeypatch.setenv("JUDGE_KEY", "s3cret")
    server.does = lambda asked: Does(status, said)
    with pytest.raises(kind, match=sentence) as caught:
        ask_all(endpoint(server, key_env="JUDGE_KEY", model="org/judge", concurrency=1), cache, asks(5))
    assert len(server.bodies) == 1 and "s3cret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_key_that_is_wanted_or_missing_or_broken(server, monkeypatch):
    server.does = lambda asked: Does(401, {})
    with pytest.raises(SettingError, match=r"wants a key \(status 401\): name the environment variable"):
        one(endpoint(server), None)
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(SettingError, match="the environment variable JUDGE_KEY, which is not set"):
        Client(endpoint(server, key_env="JUDGE_KEY"), None)
    monkeypatch.setenv("JUDGE_KEY", "s3\ncret")
    with pytest.raises(SettingError, match="JUDGE_KEY holds characters that no key has") as caught:
        Client(endpoint(server, key_env="JUDGE_KEY"), None)
    assert "cret" not in str(caught.value)


def test_the_key_is_sent_and_nowhere_else(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("JUDGE_KEY", "s3cret\n")  # as a file with a line end gives it
    told = [Does(503, {"error": "s3cret"}), Does(200, raw=b"s3cret"), Does(drop=True)]
    server.does = lambda asked: told[asked.time_of_all - 1] if asked.time_of_all <= 3 else fine(asked)
    with caplog.at_level(logging.DEBUG), Cache(tmp_path / "replies.sqlite") as cache:
        found = ask_all(endpoint(server, key_env="JUDGE_KEY", concurrency=1), cache, asks(4))
        kept = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert {h["Authorization"] for h in server.headers} == {"Bearer s3cret"}
    assert b"re: question 3" in kept and b"s3cret" not in kept
    assert "s3cret" not in caplog.text and "'***'" in caplog.text and "s3cret" not in repr(found)


def test_check(server, monkeypatch):
    def check(**settings: Any) -> None:
        with Client(endpoint(server, **settings), None) as client:
            client.check()

    check()
    check(model="judge-1")
    assert not server.bodies
    server.does = lambda asked: Does(404, {})
    with pytest.raises(SettingError, match=r"knows no model 'org/Juge-1' \(did you mean 'org/Judge-1'\?\)"):
        check(model="org/Juge-1")
    server.does = fine
    check(model="unlisted")  # but served
    assert [body["max_tokens"] for body in server.bodies] == [1, 1]
    for status in (404, 405, 500):
        server.models = Does(status, {})
        check()
    server.models = Does(401, {})
    with pytest.raises(SettingError, match="wants a key"):
        check()
    server.models = Does(200, "nothing of the kind")
    check()
    with pytest.raises(SettingError, match=r"the endpoint http://127.0.0.1:9/v1 cannot be reached: is it running"):
        check(base_url="http://127.0.0.1:9/v1")


def test_a_refusal_that_every_thread_meets_is_said_once(server, cache, caplog):
    server.does, server.wait_s = lambda asked: Does(404, {}), 0.05
    with pytest.raises(SettingError, match="knows no model 'judge'"):
        ask_all(endpoint(server, model="judge", concurrency=4), cache, asks(8))
    assert len(server.bodies) > 1 and caplog.records == []


def test_never_more_at_once_than_allowed(server, cache):
    server.wait_s = 0.02
    ask_all(endpoint(server, concurrency=8), cache, asks(80))
    assert server.most_at_once == 8 and server.connections <= 8


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"requests": 10}, "10 of 10 requests"),
        ({"tokens": 150}, "150 of 150 tokens"),
        ({"price": 0.06}, "a price of 0.06 of 0.06"),
    ],
)
def test_a_budget_ends_half_way_and_a_larger_one_continues(server, cache, budget, words):
    def limited(factor: float | None) -> Endpoint:
        scaled = None if factor is None else {k: v * factor for k, v in budget.items()}
        return endpoint(server, price={"prompt": 100, "completion": 1000}, budget=scaled, max_tokens=5)

    sentence = rf"is spent \({words}\): 10 of 25 replies are there and kept, and with a larger budget the same command"
    for _ in range(2):
        with pytest.raises(BudgetSpent, match=sentence):
            ask_all(limited(1), cache, asks(25))
        assert len(server.bodies) == 10
    with pytest.raises(BudgetSpent, match="20 of 25 replies"):
        ask_all(limited(2), cache, asks(25))
    found = ask_all(limited(None), cache, asks(25))
    assert [r.text for r in found] == [f"re: question {i}" for i in range(25)]
    assert len(server.bodies) == 25 and set(server.requests.values()) == {1}


def test_a_budget_that_just_suffices_is_no_error(server, cache):
    assert len(ask_all(endpoint(server, budget={"requests": 5}), cache, asks(5))) == 5


def test_faults_are_paid_from_the_budget_and_unanswered_requests_are_not(server, cache):
    server.does = lambda asked: {1: Does(raw=b"?"), 2: Does(500)}.get(asked.time_of_all) or fine(asked)
    with pytest.raises(BudgetSpent, match=r"3 of 3 requests\): 3 of 5 replies"):
        ask_all(endpoint(server, budget={"requests": 3}, retries=1, concurrency=1), cache, asks(5))
    assert len(server.bodies) == 4


def test_an_iterator_closed_early_keeps_what_is_under_way(server, cache):
    server.wait_s = 0.05
    with Client(endpoint(server), cache) as client:
        iterator = client.replies(asks(40))
        next(iterator)
        iterator.close()
    answered = len(server.bodies)
    assert answered < 20
    with Client(endpoint(server), cache) as client:
        again = list(client.replies(asks(40)))
    assert sum(r.cached for _, r in again) == answered and set(server.requests.values()) == {1}


def test_a_caller_that_fails_keeps_what_is_under_way(server, cache):
    server.wait_s = 0.05
    with pytest.raises(KeyboardInterrupt), Client(endpoint(server), cache) as client:
        for _, _reply in client.replies(asks(40)):
            raise KeyboardInterrupt
    answered = len(server.bodies)
    assert sum(r.cached for r in ask_all(endpoint(server), cache, asks(40))) == answered < 20


def test_a_signal_stops_in_good_order(server, cache):
    server.wait_s = 0.05
    before = signal.getsignal(signal.SIGTERM)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(StoppedError, match=r"stopped by a signal with \d+ of 400 replies"):
        ask_all(endpoint(server), cache, asks(400))
    assert signal.getsignal(signal.SIGTERM) is before
    answered = len(server.bodies)
    assert 4 <= answered < 60
    with Client(endpoint(server), cache) as client:
        assert client.spent().requests == answered


def test_waiting_to_ask_again_ends_with_a_signal(server, cache):
    server.does = lambda asked: Does(429, headers={"Retry-After": "60"})
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    started = time.monotonic()
    with pytest.raises(StoppedError):
        ask_all(endpoint(server), cache, asks(5))
    assert time.monotonic() - started < 5


def spawned(server: Server, cache: Path, n: int, concurrency: int, slow_s: float = 0) -> subprocess.Popen[str]:
    words = [sys.executable, str(WORKER), server.url, str(cache), str(n), str(concurrency), str(slow_s)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(server: Server, requests: int) -> None:
    deadline = time.monotonic() + 20
    while len(server.bodies) < requests:
        assert time.monotonic() < deadline, "the worker did not get going"
        time.sleep(0.002)


def told(process: subprocess.Popen[str]) -> dict[int, tuple[str, bool]]:
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    return {index: (text, cached) for index, text, cached in map(json.loads, out.splitlines())}


def test_two_processes_share_a_cache_and_ask_nothing_twice(tmp_path):
    server = Server(wait_s=0.03)
    try:
        both = [spawned(server, tmp_path / "replies.sqlite", 60, 4) for _ in range(2)]
        found = [told(process) for process in both]
    finally:
        server.close()
    for replies in found:
        assert {i: text for i, (text, _) in replies.items()} == {i: f"re: question {i}" for i in range(60)}
    assert len(server.bodies) == 60 and set(server.requests.values()) == {1}
    assert sum(not cached for replies in found for _, cached in replies.values()) == 60


def test_several_processes_begin_a_cache_at_once(tmp_path):
    """SQLite says at once that a file is locked which another process is making a WAL one."""
    code = (
        "import pathlib, sys, time\n"
        "from equipoise.judges.cache import Cache\n"
        "while time.time() < float(sys.argv[2]): pass\n"
        "with Cache(pathlib.Path(sys.argv[1])) as cache: cache.spent('x')\n"
    )
    start = str(time.time() + 1.5)
    command = [sys.executable, "-c", code, str(tmp_path / "replies.sqlite"), start]
    all_of_them = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    assert [(process.communicate(timeout=30)[1], process.returncode) for process in all_of_them] == [("", 0)] * 6


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be used: "):
        Cache(tmp_path / "file" / "replies.sqlite")


def test_killed_at_any_moment_nothing_is_computed_twice(tmp_path):
    server = Server(idempotent=True, wait_s=0.02)
    cache = tmp_path / "replies.sqlite"
    try:
        at = 0
        for _ in range(3):
            process = spawned(server, cache, 60, 6)
            at = len(server.bodies) + random.randint(3, 18)
            until(server, at)
            time.sleep(random.random() * 0.02)
            process.kill()
            process.communicate(timeout=10)
        replies = told(spawned(server, cache, 60, 6))
        again = len(server.bodies)
        assert told(spawned(server, cache, 60, 6)).keys() == replies.keys() and len(server.bodies) == again
    finally:
        server.close()
    assert {i: text for i, (text, _) in replies.items()} == {i: f"re: question {i}" for i in range(60)}
    assert len(server.computed) == 60 and set(server.computed.values()) == {1}
    assert again <= 60 + 3 * 6  # a kill costs what was under way, and that is computed already


def test_sigterm_loses_nothing_and_sends_nothing_twice(tmp_path):
    server = Server(wait_s=0.03)
    cache = tmp_path / "replies.sqlite"
    try:
        process = spawned(server, cache, 60, 6, 0.01)  # a slow caller, so that replies come faster than it takes them
        until(server, 20)
        process.terminate()
        _, err = process.communicate(timeout=20)
        assert process.returncode == 143 and "stopped by a signal with" in err, err
        answered = len(server.bodies)
        with sqlite3.connect(cache) as sql:
            assert sql.execute("select count(*), (select requests from paid) from replies").fetchone() == (
                answered,
                answered,
            )
        sql.close()
        replies = told(spawned(server, cache, 60, 6))
    finally:
        server.close()
    assert 20 <= answered < 60 and len(replies) == 60
    assert len(server.bodies) == 60 and set(server.requests.values()) == {1}


def test_a_file_that_is_no_cache_is_one_sentence(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to be looked at as one " * 50)
    with pytest.raises(DataError, match=r"notes.txt is damaged or not a cache of replies \(file is not a database\)"):
        Cache(text)
    foreign = tmp_path / "foreign.sqlite"
    sql = sqlite3.connect(foreign)
    sql.execute("create table t (x)")
    sql.close()
    with pytest.raises(DataError, match="is a database of something else, not a cache of replies"):
        Cache(foreign)
    with pytest.raises(DataError, match="cannot be used: unable to open"):
        Cache(tmp_path)


def test_a_damaged_cache_is_one_sentence(server, tmp_path):
    path = tmp_path / "replies.sqlite"
    with Cache(path) as cache:
        ask_all(endpoint(server), cache, asks(200))
    raw = bytearray(path.read_bytes())
    raw[4096 : len(raw)] = b"\x5a" * (len(raw) - 4096)
    path.write_bytes(raw)
    with Cache(path) as cache, pytest.raises(DataError, match="is damaged or not a cache of replies"):
        ask_all(endpoint(server), cache, asks(200))


def test_all_kinds_of_faults_at_once(server, cache):
    told = [
        Does(429, headers={"Retry-After": "0.02"}), Does(500), Does(drop=True), Does(wait_s=0.4, said=completion("no")),
        Does(raw=b'{"choices": [{"mess'), Does(raw=b"<html>"), Does(said=completion("no", model="another")),
    ]  # fmt: skip

    def does(asked: Asked) -> Does:
        lot = random.Random(f"{asked.text} {asked.time_of_key}")
        return lot.choice(told) if lot.random() < 0.3 else fine(asked)

    server.does = does
    settings = endpoint(server, concurrency=16, timeout_s=0.2)
    found = ask_all(settings, cache, asks(200))
    faulted = [r for r in found if r.text is None]
    assert 0 < len(faulted) < 60 and all(r.fault for r in faulted)
    assert all(r.text in (None, f"re: question {i}") for i, r in enumerate(found))
    before = len(server.bodies)
    server.does = fine
    again = ask_all(settings, cache, asks(200))
    assert len(server.bodies) - before == len(faulted) == sum(not r.cached for r in again)
    assert [r.text for r in again] == [f"re: question {i}" for i in range(200)]


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost/v1", True),
        ("http://[::1]:8000/v1", True),
        ("https://api.example.org/v1", False),
        ("http://10.0.0.7:8000/v1", False),
    ],
)
def test_only_addresses_of_this_machine_pass_by_a_proxy(url, here):
    assert patience.is_here(url) is here


def test_a_proxy_is_not_asked_for_what_runs_here(monkeypatch, server):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert one(endpoint(server), None).text == "re: question 0"


def test_a_model_that_answers_under_another_name(server, cache):
    server.does = lambda asked: Does(said={**completion("fine"), "model": "gpt-alias"})
    with pytest.raises(SettingError, match=r"answers as 'gpt-alias' and not as .*say so, answers_as: gpt-alias$"):
        ask_all(endpoint(server, concurrency=1), cache, asks(20))
    assert len(server.bodies) == 3  # and no more are paid
    named = endpoint(server, answers_as="gpt-alias")
    assert one(named, cache).text == "fine"
    assert named.canonical() == endpoint(server).canonical()


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:port/v1", "http://h/v1?x=1", "http://exa mple.com/v1", "http://h/v1#a", "h:80/v1", "http://"],
)
def test_addresses_that_are_none(url):
    with pytest.raises(SettingError, match="base_url is an address like"):
        Endpoint.make({"base_url": url, "model": "m"})


def test_certificates_that_are_not_there(server, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    with pytest.raises(SettingError, match="SSL_CERT_FILE"):
        Client(endpoint(server), None)
