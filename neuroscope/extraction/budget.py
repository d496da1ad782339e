"""Token budget per batch."""

from neuroscope.errors import NeuroscopeError

FIXED_BUDGET = 4096
"""Token budget of studies that must give the same bits every time; the usual one may change."""

_USUAL = {"cpu": 2048, "cuda": 32768, "mps": 8192}


def usual_budget(device: str) -> int:
    """Return the budget that suits most models on a device such as `cpu` or `cuda:1`."""
    return _USUAL.get(device.split(":")[0], _USUAL["cpu"])


class TokenBudget:
    """Token budget per batch, padding included; halved after an out-of-memory error.

    >>> budget = TokenBudget(2048)
    >>> budget()
    2048
    >>> budget.exceeded(2048)
    >>> budget()
    1024

    Raises:
        NeuroscopeError: the budget is less than one token.
    """

    def __init__(self, tokens: int):
        if tokens < 1:
            raise NeuroscopeError(
                f"a batch cannot hold {tokens} tokens", remedy="give a budget of 1 or more"
            )
        self._tokens = tokens

    def __call__(self) -> int:
        """Return the present budget."""
        return self._tokens

    def exceeded(self, tokens: int) -> None:
        """Reduce the budget because a batch of `tokens` tokens did not fit into the memory."""
        self._tokens = min(self._tokens, max(1, tokens // 2))
