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


def _alignment(xy: float, xx: float, yy: float, x_norms: Array, y_norms: Array) -> Alignment:
    """CKA from ⟨K, L⟩, ⟨K, K⟩, ⟨L, L⟩ and the diagonals of the Gram matrices of *centred* features."""
    n = len(x_norms)

    def debiased(inner: float, a: Array, b: Array) -> float:
        """n(n−3) times the U-statistic, from ⟨K, L⟩ and the diagonals a of K and b of L."""
        # It is tr K̃L̃ + 1ᵀK̃1·1ᵀL̃1/((n−1)(n−2)) − 2·1ᵀK̃L̃1/(n−2) for the matrices K̃, L̃ without their diagonals. Rows of
        # K sum to 0 for centred features, so K̃1 = −a: tr K̃L̃ = ⟨K, L⟩ − a·b, 1ᵀK̃1 = −Σa and 1ᵀK̃L̃1 = a·b.
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
    """Examples, in percent, that two models put into the same class: logits[n, c], other[n, c]."""
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
