"""Token budget per batch, and its usual value per device."""

from neuroscope.errors import NeuroscopeError

FIXED_BUDGET = 4096
"""Token budget of studies whose results must be bit-identical, as the usual budget may change."""

_USUAL = {"cpu": 2048, "cuda": 32768, "mps": 8192}


def usual_budget(device: str) -> int:
    """Return the token budget that suits most models on a device such as `cpu` or `cuda:1`."""
    return _USUAL.get(device.split(":")[0], _USUAL["cpu"])


class TokenBudget:
    """Token budget per batch, padding included, which is halved after an out-of-memory error.

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
                f"a budget of {tokens} tokens per batch is too small", remedy="give 1 or more"
            )
        self._tokens = tokens

    def __call__(self) -> int:
        """Return the current budget."""
        return self._tokens

    def exceeded(self, tokens: int) -> None:
        """Reduce the budget because a batch of `tokens` tokens did not fit into memory."""
        self._tokens = min(self._tokens, max(1, tokens // 2))
