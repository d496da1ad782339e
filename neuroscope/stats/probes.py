"""Linear probes: how well a label can be predicted from activations of held-out prompts."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # importing SciPy and scikit-learn takes a second
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from threadpoolctl import ThreadpoolController

HELD_OUT = 0.25
"""Share of the prompts on which a probe is tested."""
ALPHA = 0.05
"""False discovery rate at which layers are called readable."""
LEAST_PER_CLASS = 4
"""Smallest number of prompts per label; with a quarter held out, both parts have at least one."""
_MAX_ITERATIONS = 5000
_LIMITED = Lock()
"""Lock held while BLAS is limited to one thread: the limit applies to the whole process."""


@dataclass(frozen=True)
class Probe:
    """Accuracy of a linear classifier on the labels of held-out prompts, with its baselines."""

    accuracy: float
    """Share of the held-out prompts whose label is predicted correctly."""
    low: float
    """Lower end of the 95 % interval of the accuracy (Wilson 1927)."""
    high: float
    """Upper end of the 95 % interval of the accuracy."""
    chance: float
    """Share of the most frequent label among the held-out prompts."""
    p_value: float
    """P-value of the one-sided exact binomial test of the accuracy against chance."""
    control_accuracy: float
    """Accuracy of the same classifier with labels that are shuffled among the prompts."""
    train: int
    """Number of prompts to which the classifier is fitted."""
    heldout: int
    """Number of held-out prompts, on which the classifier is tested."""
    classes: int
    """Number of different labels."""

    @property
    def selectivity(self) -> float:
        """Accuracy minus control accuracy (Hewitt & Liang 2019, arXiv:1909.03368)."""
        return self.accuracy - self.control_accuracy


def probe_activations(
    activations: NDArray[np.floating], labels: Sequence[str], *, seed: int = 0
) -> Probe:
    """Fit a linear classifier to the activations of some prompts and test it on the others.

    The classifier is a multinomial logistic regression with an L2 penalty (C = 1). Each neuron is
    standardised by its mean and standard deviation over the training prompts. A quarter of the
    prompts is held out, stratified by label. The result does not depend on the number of threads.

    The control task (Hewitt & Liang 2019) fits the same classifier to the same training prompts
    with their labels shuffled, and tests it on the same held-out prompts with theirs shuffled. It
    shows the accuracy that such a classifier reaches when the labels have nothing to do with the
    prompts.

    Args:
        activations: (prompts, neurons) activations.
        labels: one label per prompt.
        seed: seed that determines which prompts are held out and how labels are shuffled. Probes
            of the same labels with the same seed hold out the same prompts, so that layers can be
            compared.

    Raises:
        ValueError: shapes do not match; a value is NaN or infinite; there are fewer than two
            labels, or fewer than 4 prompts with one of them.
        RuntimeError: the classifier did not converge.
    """
    activations = np.asarray(activations, dtype=np.float64)
    if activations.ndim != 2 or activations.shape[1] == 0:
        raise ValueError(f"activations must be (prompts, neurons); they are {activations.shape}")
    if not np.isfinite(activations).all():
        row = int(np.argmin(np.isfinite(activations).all(axis=1)))
        raise ValueError(f"the activations of prompt {row} contain NaN or infinity")
    return _probe(standardising_classifier(), activations, labels, seed)


def probe_tokens(
    tokens: Sequence[NDArray[np.integer]], labels: Sequence[str], *, seed: int = 0
) -> Probe:
    """Fit and test the classifier of `probe_activations` on how often each token occurs.

    This bag of tokens is the baseline for a probe of activations: it shows how well the tokens
    alone predict the label. Counts are not standardised, because that would inflate rare tokens.

    Args:
        tokens: one array of token ids per prompt.
        labels: one label per prompt.
        seed: seed as in `probe_activations`, which holds out the same prompts.

    Raises:
        ValueError: the numbers of prompts and labels differ; there is no token; there are fewer
            than two labels, or fewer than 4 prompts with one of them.
        RuntimeError: the classifier did not converge.
    """
    from scipy.sparse import csr_array
    from sklearn.pipeline import make_pipeline

    lengths = [len(ids) for ids in tokens]
    if not sum(lengths):
        raise ValueError("no prompt has a token")
    vocabulary, columns = np.unique(np.concatenate(tokens), return_inverse=True)
    ends = np.cumsum([0, *lengths])
    counts = csr_array(
        (np.ones(len(columns)), columns, ends), shape=(len(lengths), len(vocabulary))
    )
    counts.sum_duplicates()
    return _probe(make_pipeline(_classifier()), counts, labels, seed)


class Split(NamedTuple):
    """Indices of the prompts to which a probe is fitted, and of those on which it is tested."""

    train: NDArray[np.intp]
    heldout: NDArray[np.intp]


def split_prompts(labels: Sequence[str], *, seed: int = 0) -> Split:
    """Return which prompts all probes of these labels with this seed train and test on.

    Args:
        labels: one label per prompt.
        seed: seed as in `probe_activations`.

    Raises:
        ValueError: there are fewer than two labels, or fewer than 4 prompts with one of them.
    """
    return _split(_classes(len(labels), labels), seed)


def _split(classes: NDArray[np.intp], seed: int) -> Split:
    """Hold out a quarter of the prompts, stratified by label."""
    from sklearn.model_selection import train_test_split

    indices = np.arange(len(classes))
    return Split(
        *train_test_split(indices, test_size=HELD_OUT, stratify=classes, random_state=seed)
    )


def _classifier() -> "LogisticRegression":
    """Return an unfitted classifier, the same for all probes."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1.0, solver="lbfgs", max_iter=_MAX_ITERATIONS)


def standardising_classifier() -> "Pipeline":
    """Return an unfitted classifier that standardises each neuron over the training prompts."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), _classifier())


@cache
def _threads() -> "ThreadpoolController":
    """Return the controller of the threads of BLAS, which scikit-learn has loaded."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit BLAS to one thread; only one thread of Python at a time is in this context.

    More threads would change the last digits; they gain little, and lose much on busy cores.
    """
    with _LIMITED, _threads().limit(limits=1, user_api="blas"):
        yield


def _probe(model: "Pipeline", features: Any, labels: Sequence[str], seed: int) -> Probe:
    """Fit and test `model` on (prompts, features), with the labels and with shuffled labels."""
    classes = _classes(features.shape[0], labels)
    train, heldout = _split(classes, seed)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(classes[train]), rng.permutation(classes[heldout])
    parts = features[train], features[heldout]
    with one_thread():
        correct = _correct(model, *parts, classes[train], classes[heldout])
        control = _correct(model, *parts, *shuffled)
    return _summary(correct, control, len(train), classes[heldout])


def _summary(correct: int, control: int, train: int, heldout: NDArray[np.intp]) -> Probe:
    """Return the probe with these numbers of correct predictions and these held-out labels."""
    from scipy.stats import binomtest

    count = len(heldout)
    chance = float(np.bincount(heldout).max() / count)
    interval = binomtest(correct, count).proportion_ci(0.95, method="wilson")
    return Probe(
        accuracy=correct / count,
        low=float(interval.low),
        high=float(interval.high),
        chance=chance,
        p_value=float(binomtest(correct, count, chance, alternative="greater").pvalue),
        control_accuracy=control / count,
        train=train,
        heldout=count,
        classes=int(heldout.max()) + 1,  # every label is among the held-out prompts
    )


def _classes(prompts: int, labels: Sequence[str]) -> NDArray[np.intp]:
    """Return the labels as numbers from 0; raise ValueError unless they can be probed."""
    if len(labels) != prompts:
        raise ValueError(
            f"each prompt needs one label, but there are {prompts} prompts and {len(labels)} labels"
        )
    counts = Counter(labels)
    if len(counts) < 2:
        raise ValueError(f"a probe needs at least 2 different labels; there are {list(counts)}")
    rarest = min(counts, key=counts.__getitem__)
    if counts[rarest] < LEAST_PER_CLASS:
        raise ValueError(
            f"too few prompts have the label {rarest!r}: {counts[rarest]}; a probe needs at least"
            f" {LEAST_PER_CLASS} per label"
        )
    numbers = {label: number for number, label in enumerate(sorted(counts))}
    return np.array([numbers[label] for label in labels])


def _correct(
    model: "Pipeline",
    train: Any,
    heldout: Any,
    train_classes: NDArray[np.intp],
    heldout_classes: NDArray[np.intp],
) -> int:
    """Fit `model` and return the number of held-out prompts that it classifies correctly."""
    fit_classifier(model, train, train_classes)
    return int(np.sum(model.predict(heldout) == heldout_classes))


def fit_classifier(model: "Pipeline", train: Any, classes: NDArray[Any]) -> None:
    """Fit `model` to (prompts, features); raise RuntimeError if it does not converge."""
    model.fit(train, classes)
    if model[-1].n_iter_.max() >= _MAX_ITERATIONS:
        raise RuntimeError(
            f"the probe did not converge in {_MAX_ITERATIONS} iterations on "
            f"{train.shape[0]} prompts with {train.shape[1]} features"
        )


@dataclass(frozen=True)
class ReadableLayers:
    """Layers from which a label can be predicted above chance, numbered from 0."""

    q_values: tuple[float, ...]
    """P-value of each layer, adjusted for the number of layers (Benjamini & Hochberg 1995)."""
    readable: tuple[int, ...]
    """Layers whose q-value is below 0.05."""
    readable_from: int | None
    """First layer from which on every layer is readable; None if the last is not."""
    best: int
    """Layer with the highest accuracy, readable or not; the first if several have it."""


def readable_layers(probes: Sequence[Probe]) -> ReadableLayers:
    """Return the layers where a label is predicted above chance, at a false discovery rate of 0.05.

    Args:
        probes: one probe per layer, in order, for the same labels.

    Raises:
        ValueError: no probes are given.
    """
    from scipy.stats import false_discovery_control

    if not probes:
        raise ValueError("there is no layer to test")
    q_values = false_discovery_control([probe.p_value for probe in probes], method="bh")
    unreadable = np.flatnonzero(q_values >= ALPHA)
    first = int(unreadable[-1]) + 1 if len(unreadable) else 0
    return ReadableLayers(
        q_values=tuple(q_values.tolist()),
        readable=tuple(np.flatnonzero(q_values < ALPHA).tolist()),
        readable_from=first if first < len(probes) else None,
        best=int(np.argmax([probe.accuracy for probe in probes])),
    )
