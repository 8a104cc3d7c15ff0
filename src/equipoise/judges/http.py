"""Asking a judge or an oracle: any OpenAI-compatible endpoint, many requests at once, no reply paid for twice.

A reply is stored the moment it comes and found again by the hash of its request, by any process. What is on its way
when a process is killed is lost to the client; every request carries that hash as `Idempotency-Key`, so that a server
which honours it charges neither for that nor for an attempt that it thought it had answered.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

import httpx2

from equipoise.errors import BudgetSpent, DataError, SettingError, StoppedError, nearest
from equipoise.judges import Endpoint
from equipoise.judges.cache import Bill, Cache, Spent
from equipoise.judges.completions import Ask, Completion, Reply, content, key_of, read_completion, same_model
from equipoise.judges.flight import Flight, Landed, Letter, Unanswered
from equipoise.judges.patience import Garbled, GaveUp, Refused, is_here, patiently, with_key
from equipoise.judges.purse import Purse

__all__ = ["Ask", "Client", "Reply"]

logger = logging.getLogger(__name__)

_CONNECT_S, _CHECKS, _FOREIGN = 10.0, 2, 3


class Client:
    """One endpoint, asked from one thread, which sends from `endpoint.concurrency` others; a context manager.

    What is paid is written to `account` of the cache's ledger (by default one of the endpoint and its model). Without a
    cache, replies and ledger live as long as the client. Raises SettingError where the key is not there.
    """

    def __init__(self, endpoint: Endpoint, cache: Cache | None, *, account: str = "") -> None:
        self._endpoint, self._cache = endpoint, cache or Cache(None)
        self._own = self._cache if cache is None else None
        self._base = endpoint.base_url.rstrip("/")
        self._account = account or f"{endpoint.identity or self._base} {endpoint.model}"
        self._cached, self._uncounted = 0, False
        self._good, self._foreign, self._failed = False, 0, ""
        self._flight: Flight | None = None
        self._headers = {**with_key(endpoint.key_env), "Content-Type": "application/json"}
        self._lines, self._idle = list[httpx2.Client](), deque[httpx2.Client]()
        self._url = f"{self._base}/chat/completions"
        try:
            self._tls = httpx2.create_ssl_context()
        except OSError as error:
            raise SettingError(f"the certificates that SSL_CERT_FILE or SSL_CERT_DIR names: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Receive and store what is under way, and let go of all connections."""
        if self._flight is not None:
            self._flight.finish()
        for line in self._lines:
            line.close()
        if self._own is not None:
            self._own.close()

    def spent(self) -> Spent:
        """What the account has paid so far, in all processes since ever; `cached` are replies that cost this client
        nothing. A request is one that was answered: refusals and attempts that came to nothing are none."""
        return self._cache.spent(self._account)._replace(cached=self._cached)

    def check(self) -> None:
        """Ask which models there are. Raises SettingError for an endpoint that cannot be reached, refuses the key or
        does not know the model.

        A list may leave out what would be served: a model that is not on it is asked for one token.
        """
        try:
            response = patiently(
                lambda: self._reached(f"{self._base}/models"),
                retries=min(_CHECKS, self._endpoint.retries),
                stop=threading.Event(),
                who=self._who,
            )
        except Refused as refused:
            if refused.status not in (404, 405):  # an endpoint need not have this route
                self._refuse(refused)
            return
        except Garbled:
            return
        except GaveUp as error:
            if str(error).startswith("status"):  # the list is broken; whether the rest is will be seen
                logger.warning("%s: its list of models says %s", self._who, error)
                return
            raise SettingError(f"{self._who} did not answer ({error}): is it an address that is served?") from None
        known = _ids(response)
        if known and not any(same_model(self._endpoint.model, name) for name in known):
            self._probe()

    def _reached(self, url: str) -> httpx2.Response:
        try:
            with self._line() as http:
                return http.get(url)
        except httpx2.ConnectError:
            raise SettingError(f"{self._who} cannot be reached: is it running, and is base_url right?") from None

    def _probe(self) -> None:
        ask = Ask(({"role": "user", "content": "Hello"},))
        endpoint = self._endpoint.but(max_tokens=1)
        body = content(endpoint, ask)
        letter = Letter(key_of(endpoint, body, 0), body)
        with contextlib.suppress(GaveUp, Garbled):  # whoever asks next will hear of it
            try:
                said = self._send(letter, threading.Event())
            except Refused as refused:
                self._refuse(refused)
            price = Purse(endpoint, Spent(0, 0, 0, None)).price_of(said.prompt_tokens, said.completion_tokens)
            self._cache.put(self._account, [Bill(letter.key, said.prompt_tokens, said.completion_tokens, price, None)])

    def replies(
        self, asks: Sequence[Ask], *, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[int, Reply]]:
        """A reply to each of `asks`, with its index, as they come: first those of the cache. Equal asks are sent once.

        `progress` is told how many of how many are there. Requests go on while the caller is busy; each reply is stored
        before it is given out. Whoever closes the iterator early waits for those under way. Raises BudgetSpent;
        StoppedError after SIGTERM; SettingError or DataError for a refusal or an endpoint that no longer answers: all
        of them after what was under way has been received and stored.
        """
        if self._flight is not None:
            raise RuntimeError("a client answers one sequence of asks at a time")
        where: dict[str, list[int]] = {}
        letters = []
        for index, ask in enumerate(asks):
            body = content(self._endpoint, ask)
            key = key_of(self._endpoint, body, ask.repeat)
            if key not in where:
                letters.append(Letter(key, body))
            where.setdefault(key, []).append(index)
        kept = self._cache.get(list(where))
        letters = [letter for letter in letters if letter.key not in kept]
        purse = Purse(self._endpoint, self._cache.spent(self._account))
        flight = self._flight = Flight(
            letters,
            threads=self._endpoint.concurrency,
            send=self._send,
            cache=self._cache,
            account=self._account,
            purse=purse,
        )
        done = 0
        with _listening(flight), self._finishing(flight):
            flight.start()
            first = [Landed(key, Completion(*kept[key]), cached=True, paid=False) for key in where if key in kept]
            for landed in self._landing(flight, first):
                for n, index in enumerate(where[landed.key]):
                    if flight.woken:
                        break
                    cached = landed.cached or (n > 0 and landed.said.text is not None)
                    self._cached += cached
                    done += 1
                    if progress is not None:
                        progress(done, len(asks))
                    yield index, _reply(landed, cached)
        if flight.woken:
            raise StoppedError(
                f"stopped by a signal with {done} of {len(asks)} replies of {self._who} handed on; all that came are "
                "kept, the same command continues"
            )
        if flight.broke:
            raise BudgetSpent(
                f"the budget for {self._who} is spent ({purse.words()}): {done} of {len(asks)} replies are there and "
                "kept, and with a larger budget the same command continues and pays for nothing twice"
            )
        if done < len(asks):
            raise RuntimeError("the client was closed before all replies were there")

    def _landing(self, flight: Flight, first: Sequence[Landed]) -> Iterator[Landed]:
        """What landed, until everything has or somebody woke us up."""
        yield from first
        while not flight.woken and not (flight.over and flight.landed.empty()):
            item = flight.landed.get()
            if isinstance(item, Landed):
                yield item
            elif item is not None:
                self._fail(item)

    @contextlib.contextmanager
    def _finishing(self, flight: Flight) -> Iterator[None]:
        """Store what is under way, however the block ends; an interrupt of that leaves at once."""
        whole, wrong = False, list[BaseException]()
        try:
            yield
            whole = True
        finally:
            try:
                wrong = flight.finish()
            finally:
                self._flight = None
            # What ended the block is what is raised; other threads often met the same.
            for said in () if whole else dict.fromkeys(map(str, wrong)):
                if said != self._failed:
                    logger.warning("%s: %s", self._who, said)
        for error in wrong:
            self._fail(error)

    def _send(self, letter: Letter, stop: threading.Event) -> Completion:
        """One request until it is answered, in whatever thread."""
        try:
            response = patiently(
                lambda: self._post(letter),
                retries=self._endpoint.retries,
                stop=stop,
                who=self._who,
            )
        except Refused as refused:
            if refused.status == 400 and _filtered(refused.response):
                return Completion(None, finish="content_filter", fault="withheld by the endpoint's content filter")
            raise
        expected = self._endpoint.answers_as or self._endpoint.model
        said = read_completion(response.content, expected)
        if said.text is not None:
            self._good = True
        elif said.model is not None and not same_model(expected, said.model):
            self._foreign += 1
            if not self._good and self._foreign >= _FOREIGN:
                raise SettingError(
                    f"{self._who} answers as '{said.model[:80]}' and not as '{expected}': where that is the model that "
                    f"is meant, say so, answers_as: {said.model[:80]}"
                )
        if said.text is not None and not said.usage and not self._uncounted:
            self._uncounted = True
            logger.warning("%s does not say how many tokens it used: they are counted as 0", self._who)
        return said

    def _post(self, letter: Letter) -> httpx2.Response:
        with self._line() as http:
            return http.post(self._url, content=letter.body, headers={"Idempotency-Key": letter.key})

    @contextlib.contextmanager
    def _line(self) -> Iterator[httpx2.Client]:
        """A connection that nobody else is using. One pool for all would look at each of its connections for each
        request, which costs more than the request."""
        try:
            line = self._idle.pop()
        except IndexError:
            line = self._connected()
            self._lines.append(line)
        try:
            yield line
        finally:
            self._idle.append(line)

    def _connected(self) -> httpx2.Client:
        try:
            return httpx2.Client(
                headers=self._headers,
                timeout=httpx2.Timeout(self._endpoint.timeout_s, connect=min(_CONNECT_S, self._endpoint.timeout_s)),
                limits=httpx2.Limits(max_connections=1, max_keepalive_connections=1),
                verify=self._tls,
                trust_env=not is_here(self._base),
            )
        except (ImportError, ValueError, httpx2.InvalidURL) as error:  # a proxy that needs a package, or is no address
            raise SettingError(f"the proxy that the environment names for {self._who}: {error}") from error

    @property
    def _who(self) -> str:
        return f"the endpoint {self._base}"

    def _fail(self, error: BaseException) -> NoReturn:
        self._failed = str(error)
        if isinstance(error, Refused):
            self._refuse(error)
        if isinstance(error, Unanswered):
            raise DataError(
                f"{self._who} did not answer {error}: what it replied is kept, run the same command again when it does"
            ) from None
        raise error

    def _refuse(self, refused: Refused) -> NoReturn:
        """One sentence for a status that is not worth asking again."""
        env = self._endpoint.key_env
        if refused.status in (401, 403):
            if env is None:
                raise SettingError(
                    f"{self._who} wants a key ({refused}): name the environment variable that holds it with key_env"
                ) from None
            raise SettingError(f"{self._who} refused the key in the environment variable {env} ({refused})") from None
        if refused.status == 404:
            known = self.models()
            if known and self._endpoint.model not in known:
                hint = nearest(self._endpoint.model, known)
                raise SettingError(f"{self._who} knows no model '{self._endpoint.model}'{hint}") from None
            raise SettingError(
                f"{self._who} has no model '{self._endpoint.model}', or no route /chat/completions ({refused})"
                + ("" if self._base.endswith("/v1") else ": most addresses end in /v1")
            ) from None
        raise DataError(f"{self._who} refused a request: {refused}") from None

    def models(self) -> list[str]:
        """The names that the endpoint lists; none where it has no such list or cannot be reached."""
        try:
            with self._line() as http:
                response = http.get(f"{self._base}/models")
        except httpx2.RequestError:
            return []
        return _ids(response) if response.is_success else []


def _reply(landed: Landed, cached: bool) -> Reply:
    said = landed.said
    return Reply(
        said.text,
        said.finish,
        said.prompt_tokens,
        said.completion_tokens,
        said.model,
        cached,
        landed.key,
        said.fault,
    )


def _filtered(response: httpx2.Response) -> bool:
    """Whether a request was refused for what its messages say: that concerns this one alone."""
    try:
        said: Any = response.json()
    except (ValueError, RecursionError):
        return False
    error = said.get("error") if isinstance(said, Mapping) else None
    return isinstance(error, Mapping) and error.get("code") == "content_filter"


def _ids(response: httpx2.Response) -> list[str]:
    """The names in a list of models; none where it is no such list."""
    try:
        said: Any = response.json()
    except (ValueError, RecursionError):
        return []
    listed = said.get("data") if isinstance(said, Mapping) else None
    found = [one.get("id") for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    return [name for name in found if isinstance(name, str)]


@contextlib.contextmanager
def _listening(flight: Flight) -> Iterator[None]:
    """Take SIGTERM as a request to stop, inside the block (signals reach the main thread only)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hear(number: int, frame: FrameType | None) -> None:
        flight.wake()

    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
