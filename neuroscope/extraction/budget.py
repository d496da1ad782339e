"""How many tokens a batch should hold: given, or found on the first batches."""

from statistics import median

from neuroscope.errors import NeuroscopeError

_USUAL = {"cpu": 2048, "cuda": 32768, "mps": 8192}
_TRIED = (1, 0.5, 2, 4)  # times the usual one
_TRIALS = 4  # of each; the first is left out, as it meets cold caches
_WORTHWHILE = 1.03  # less of a gain may be chance


class TokenBudget:
    """Tokens a batch, padding included.

    Too few tokens leave the processor waiting, too many fall out of its caches. Where no budget is
    given, the first batches of real work take a half to four times the usual one in turn, and the
    rest takes what was fastest.

    >>> budget = TokenBudget()
    >>> tokens = budget()               # how many the next batch may hold
    >>> budget.measured(tokens, 0.1)    # seconds it took

    Raises:
        NeuroscopeError: less than one token is given.
    """

    def __init__(self, given: int | None = None, device: str = "cpu"):
        if given is not None and given < 1:
            raise NeuroscopeError(
                f"a budget of {given} tokens a batch holds nothing: give 1 or more"
            )
        self._chosen: int | None = given
        self._usual = self._current = given or _USUAL.get(device.split(":")[0], _USUAL["cpu"])
        self._rates: dict[int, list[float]] = {int(self._usual * one): [] for one in _TRIED}

    def __call__(self) -> int:
        if self._chosen is None:
            self._current = min(self._rates, key=lambda one: len(self._rates[one]))
        return self._chosen or self._current

    @property
    def usual(self) -> int:
        """The one to take where it cannot be looked for: the one given, or the device's usual."""
        return self._usual

    @property
    def chosen(self) -> int | None:
        """None while it is still being looked for."""
        return self._chosen

    def measured(self, tokens: int, seconds: float) -> None:
        """Tells what the last batch held, padding left out, and how long it took."""
        if self._chosen is not None:
            return
        self._rates[self._current].append(tokens / max(seconds, 1e-9))
        if all(len(rates) >= _TRIALS for rates in self._rates.values()):
            self._chosen = self._best()

    def _best(self) -> int:
        rates = {one: median(rates[1:]) for one, rates in self._rates.items()}
        best = max(rates, key=lambda one: rates[one])
        return best if rates[best] > _WORTHWHILE * rates[self._usual] else self._usual
