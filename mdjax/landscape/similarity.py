"""Two models' features, outputs or parameters on the same inputs → how similar they are. NumPy, in float64.

Linear centred kernel alignment (CKA) of features x[n, d] and y[n, e] is HSIC(x, y) / √(HSIC(x, x) HSIC(y, y)), where
HSIC, the Hilbert–Schmidt independence criterion, is estimated from the Gram matrices K = xxᵀ and L = yyᵀ either
*biased*, ‖HKLH‖ with H centring, or *debiased*, by its U-statistic. Any number of features looks aligned to the
biased estimate once d exceeds n; the debiased one is near 0 for unrelated features and can be negative.

Sources: Kornblith et al., "Similarity of neural network representations revisited", ICML 2019; Song et al., "Feature
selection via dependence maximization", JMLR 2012, eq. 5; Nguyen et al., "Do wide and deep networks learn the same
things?", ICLR 2021.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from mdjax.errors import InputError

Array = np.ndarray
PyTree = Any

SMALLEST_MIXTURE = 1e-7
"""The lower bound of a mixture's probabilities in `jensen_shannon`, as published."""


class Alignment(NamedTuple):
    """Linear CKA of two sets of features by both estimators; NaN where it is undefined."""

    biased: float
    debiased: float


def linear_cka(features: Array, other: Array) -> Alignment:
    """CKA of features[n, d] and other[n, e], exactly symmetric; 1 for equal ones, undefined for constant ones.

    By cross-covariances (n·(d+e)²/2 multiplications) or Gram matrices (n²·(d+e)), whichever are fewer. The debiased
    value needs n > 3. Raises InputError where n differs.
    """
    x, y = (np.asarray(array, np.float64) for array in (features, other))
    _check_examples(len(x), len(y))
    x, y = x - x.mean(0), y - y.mean(0)
    d, e = x.shape[1], y.shape[1]
    if d * d + e * e + d * e > len(x) * (d + e):
        return gram_cka(x @ x.T, y @ y.T)

    def cross(x: Array, y: Array) -> float:
        # BLAS may round xᵀy and (yᵀx)ᵀ differently; their mean is the same in either order.
        return float(np.square(x.T @ y).sum() + np.square(y.T @ x).sum()) / 2

    return _alignment(cross(x, y), cross(x, x), cross(y, y), np.square(x).sum(1), np.square(y).sum(1))


def gram_cka(gram: Array, other: Array) -> Alignment:
    """CKA from the Gram matrices K[n, n] and L[n, n] of two sets of features, centred or not; see `linear_cka`."""
    _check_examples(len(gram), len(other))
    K, L = (_centred(np.asarray(array, np.float64)) for array in (gram, other))
    return _alignment(float((K * L).sum()), float((K * K).sum()), float((L * L).sum()), np.diag(K), np.diag(L))


class StreamedCKA:
    """CKA over batches of examples, exact, in memory independent of how many there are.

    Keeps sums over examples (d·e + d² + e² numbers) from which both estimators follow exactly; cost of a batch of b:
    b·(d² + e² + d·e) multiplications.
    """

    def __init__(self) -> None:
        self._count = 0
        self._shifts: tuple[Array, Array] | None = None
        self._sums: list[_Sums] = []

    def add(self, features: Array, other: Array) -> None:
        """Add features[b, d] and other[b, e] of the next b examples. Raises InputError where b differs."""
        x, y = (np.asarray(array, np.float64) for array in (features, other))
        _check_examples(len(x), len(y))
        if not len(x):
            return
        if self._shifts is None:
            # CKA does not depend on an offset, and sums of nearly centred numbers keep their digits.
            self._shifts = x.mean(0), y.mean(0)
        x, y = x - self._shifts[0], y - self._shifts[1]
        new = [_Sums.of(*pair) for pair in ((x, y), (x, x), (y, y))]
        self._sums = [old + more for old, more in zip(self._sums, new)] if self._sums else new
        self._count += len(x)

    def value(self) -> Alignment:
        """CKA of all examples so far; undefined without any."""
        if not self._sums:
            return Alignment(math.nan, math.nan)
        (xy, xx, yy), n = self._sums, self._count
        return Alignment(
            _ratio(xy.biased(n), xx.biased(n), yy.biased(n)),
            _ratio(xy.debiased(n), xx.debiased(n), yy.debiased(n)) if n > 3 else math.nan,
        )


class _Sums(NamedTuple):
    """Sums over examples of two sets of features: Σ x yᵀ, Σ x, Σ y, Σ x‖y‖², Σ y‖x‖², Σ ‖x‖²‖y‖², Σ ‖x‖², Σ ‖y‖²."""

    cross: Array
    x: Array
    y: Array
    x_weighted: Array
    y_weighted: Array
    norms: Array
    x_norms: Array
    y_norms: Array

    @classmethod
    def of(cls, x: Array, y: Array) -> "_Sums":
        a, b = np.square(x).sum(1), np.square(y).sum(1)
        return cls(x.T @ y, x.sum(0), y.sum(0), b @ x, a @ y, a @ b, a.sum(), b.sum())

    def __add__(self, other: "_Sums") -> "_Sums":  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Sums(*(mine + more for mine, more in zip(self, other)))

    def biased(self, n: int) -> float:
        return float(np.square(self.cross - np.outer(self.x, self.y) / n).sum())

    def debiased(self, n: int) -> float:
        """n(n−3) times the U-statistic: with K, L of zero diagonal, tr KL + 1ᵀK11ᵀL1/((n−1)(n−2)) − 2·1ᵀKL1/(n−2)."""
        trace = np.square(self.cross).sum() - self.norms
        totals = (self.x @ self.x - self.x_norms) * (self.y @ self.y - self.y_norms)
        rows = self.x @ self.cross @ self.y - self.x @ self.x_weighted - self.y @ self.y_weighted + self.norms
        return float(trace + totals / ((n - 1) * (n - 2)) - 2 * rows / (n - 2))


def _alignment(xy: float, xx: float, yy: float, x_norms: Array, y_norms: Array) -> Alignment:
    """CKA from ⟨K, L⟩, ⟨K, K⟩, ⟨L, L⟩ and the diagonals of the Gram matrices of *centred* features."""
    n = len(x_norms)

    def debiased(inner: float, a: Array, b: Array) -> float:
        # Centred rows sum to 0, so that without its diagonal K 1 = −a: `_Sums.debiased` with Σx = 0.
        return float(inner - (a * b).sum() * n / (n - 2) + a.sum() * b.sum() / ((n - 1) * (n - 2)))

    if n <= 3:
        return Alignment(_ratio(xy, xx, yy), math.nan)
    return Alignment(
        _ratio(xy, xx, yy),
        _ratio(debiased(xy, x_norms, y_norms), debiased(xx, x_norms, x_norms), debiased(yy, y_norms, y_norms)),
    )


def _ratio(xy: float, xx: float, yy: float) -> float:
    scale = math.sqrt(xx) * math.sqrt(yy) if xx > 0 and yy > 0 else 0.0
    return xy / scale if scale > 0 else math.nan


def _centred(gram: Array) -> Array:
    means = gram.mean(0)
    return gram - means - means[:, None] + means.mean()


def _check_examples(count: int, other: int) -> None:
    if count != other:
        raise InputError(
            f"The features are of {count} and of {other} examples. Give both models' features on the same examples."
        )


def agreement(logits: Array, other: Array) -> float:
    """Share of examples, in percent, that two models put into the same class: logits[n, c], other[n, c]."""
    return float(100 * (np.argmax(logits, 1) == np.argmax(other, 1)).mean())


def jensen_shannon(logits: Array, other: Array) -> float:
    """Mean Jensen–Shannon divergence in nats of the class probabilities of logits[n, c] and other[n, c]; 0 to ln 2.

    ½ Σ p ln(p/m) + ½ Σ q ln(q/m) with the mixture m = (p + q)/2, at least 1e-7 as in the published metric.
    """
    p, q = _log_softmax(logits), _log_softmax(other)
    mixture = np.log(np.maximum((np.exp(p) + np.exp(q)) / 2, SMALLEST_MIXTURE))
    return float((np.exp(p) * (p - mixture) + np.exp(q) * (q - mixture)).sum(1).mean() / 2)


def _log_softmax(logits: Array) -> Array:
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def cosine(values: Array, other: Array) -> float:
    """Cosine of the angle between two arrays of equal shape, each taken as one vector; NaN where one is zero."""
    x, y = (np.asarray(array, np.float64).ravel() for array in (values, other))
    scale = np.linalg.norm(x) * np.linalg.norm(y)
    return float((x * y).sum() / scale) if scale > 0 else math.nan


class Distance(NamedTuple):
    """Euclidean distance of two models: over all parameters, and over each top-level module, named by `layers`."""

    total: float
    by_layer: tuple[float, ...]
    layers: tuple[str, ...]


def parameter_distance(params: PyTree, other: PyTree) -> Distance:
    """The distance ‖θ − θ'‖₂ of two models of one architecture; no statistics, no alignment of units.

    Layers are the outermost keys of the pytree, in its order. Cost: 2p flops on the host for p parameters.
    """
    squares: dict[str, float] = {}
    pairs = zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(other), strict=True)
    for (path, leaf), counterpart in pairs:
        name = jax.tree_util.keystr(path[:1], simple=True)
        difference = np.asarray(leaf, np.float64) - np.asarray(counterpart, np.float64)
        squares[name] = squares.get(name, 0.0) + float(np.square(difference).sum())
    return Distance(math.sqrt(sum(squares.values())), tuple(map(math.sqrt, squares.values())), tuple(squares))
