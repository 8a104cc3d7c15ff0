"""Whether an account may send another request: what it has paid, what is under way, what it may spend."""

from __future__ import annotations

from equipoise.judges import Endpoint
from equipoise.judges.cache import Spent

_BYTES_PER_TOKEN = 3  # of a prompt, before the endpoint has told how it counts


class Purse:
    """The budget of one account, as seen by one process (not safe for threads by itself).

    A request under way counts one request and the mean tokens of those paid for; before there is a mean, the most that
    it can cost. One request may always go alone while anything is left, so tokens and price can end above the budget by
    what the last requests cost more than the mean.
    """

    def __init__(self, endpoint: Endpoint, spent: Spent) -> None:
        self.spent = spent
        self.under_way = 0
        self._endpoint = endpoint

    def may_send(self, size: int) -> bool:
        """Whether a request with a body of `size` bytes may go now; it may later once something has come back."""
        budget = self._endpoint.budget
        if budget is None:
            return True
        n, spent = self.under_way, self.spent
        prompt, completion = self._each(size)
        price = self._endpoint.price
        each = 0.0 if price is None else price.of(prompt, completion)
        limits = (
            (budget.requests, spent.requests + n),
            (budget.tokens, spent.tokens + n * (prompt + completion)),
            (budget.price, (spent.price or 0.0) + n * each),
        )
        return all(limit is None or not _reached(at, limit) for limit, at in limits)

    def _each(self, size: int) -> tuple[float, float]:
        spent = self.spent
        if spent.requests == 0 or spent.tokens == 0:
            return size / _BYTES_PER_TOKEN, self._endpoint.max_tokens
        return spent.prompt_tokens / spent.requests, spent.completion_tokens / spent.requests

    def price_of(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """What a request costs; None where nobody said."""
        price = self._endpoint.price
        return None if price is None else price.of(prompt_tokens, completion_tokens)

    def words(self) -> str:
        """Which limits are reached: what was spent of what."""
        budget, spent = self._endpoint.budget, self.spent
        assert budget is not None
        found = []
        if budget.requests is not None and _reached(spent.requests, budget.requests):
            found.append(f"{spent.requests:,} of {budget.requests:,} requests")
        if budget.tokens is not None and _reached(spent.tokens, budget.tokens):
            found.append(f"{spent.tokens:,} of {budget.tokens:,} tokens")
        if budget.price is not None and _reached(spent.price or 0.0, budget.price):
            found.append(f"a price of {spent.price or 0.0:.6g} of {budget.price:.6g}")
        return ", ".join(found)


def _reached(at: float, limit: float) -> bool:
    return at >= limit * (1 - 1e-9)  # a sum of prices is a little less or more in each order
