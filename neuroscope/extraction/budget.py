"""How many tokens a batch holds."""

from neuroscope.errors import NeuroscopeError

_USUAL = {"cpu": 2048, "cuda": 32768, "mps": 8192}


def usual_budget(device: str) -> int:
    """What suits most models on a device, such as `cpu` or `cuda:1`."""
    return _USUAL.get(device.split(":")[0], _USUAL["cpu"])


class TokenBudget:
    """Tokens a batch, padding included; fewer once the device had not the memory for them.

    >>> budget = TokenBudget(2048)
    >>> budget()
    2048
    >>> budget.exceeded(2048)
    >>> budget()
    1024

    Raises:
        NeuroscopeError: less than one token is given.
    """

    def __init__(self, tokens: int):
        if tokens < 1:
            raise NeuroscopeError(
                f"a budget of {tokens} tokens a batch holds nothing: give 1 or more"
            )
        self._tokens = tokens

    def __call__(self) -> int:
        return self._tokens

    def exceeded(self, tokens: int) -> None:
        """Tells that the device has not the memory for a batch of so many tokens."""
        self._tokens = min(self._tokens, max(1, tokens // 2))
