"""How many tokens a batch should hold: given, or found on the first batches."""

from statistics import median

from neuroscope.errors import NeuroscopeError

_USUAL = {"cpu": 2048, "cuda": 32768, "mps": 8192}
_TRIALS = 4  # of each; the first is left out, as it meets cold caches
_WORTHWHILE = 1.03  # less of a gain may be chance


class TokenBudget:
    """Tokens a batch, padding included.

    Too few tokens leave the processor waiting, too many fall out of its caches. Where no budget is
    given, the first batches of real work take the usual one, half and twice of it in turn. Where
    one of these is faster, the next one in its direction is tried beside it, and so on until that
    is no faster.

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
        self._usual = self._best = given or _USUAL.get(device.split(":")[0], _USUAL["cpu"])
        self._chosen: int | None = given
        self._try(self._usual, self._usual // 2, self._usual * 2)

    def __call__(self) -> int:
        if self._chosen is None:
            self._current = min(self._rates, key=lambda one: len(self._rates[one]))
        return self._chosen or self._current

    @property
    def usual(self) -> int:
        """The one to take where it cannot be looked for: the one given, or the device's usual."""
        return self._usual

    def exceeded(self, tokens: int) -> None:
        """Tells that the device has not the memory for a batch of so many tokens."""
        self._usual = min(self._usual, max(1, tokens // 2))
        self._best = self._chosen = min(self._best, self._usual)

    @property
    def chosen(self) -> int | None:
        """None while it is still being looked for."""
        return self._chosen

    def measured(self, tokens: int, seconds: float) -> None:
        """Tells what the last batch held, padding left out, and how long it took."""
        if self._chosen is not None:
            return
        self._rates[self._current].append(tokens / max(seconds, 1e-9))
        if any(len(rates) < _TRIALS for rates in self._rates.values()):
            return
        before, self._best = self._best, self._fastest()
        if self._best == before:
            self._chosen = self._best
        else:  # measured anew beside each other: what comes now may be faster for another reason
            self._try(self._best, self._best * self._best // before)

    def _try(self, *budgets: int) -> None:
        self._rates: dict[int, list[float]] = {one: [] for one in budgets if one > 0}

    def _fastest(self) -> int:
        """The best one so far, unless another is clearly faster."""
        rates = {one: median(rates[1:]) for one, rates in self._rates.items()}
        fastest = max(rates, key=lambda one: rates[one])
        return fastest if rates[fastest] > _WORTHWHILE * rates[self._best] else self._best
