"""Two models' features on the same inputs → how similar the models are."""

import numpy as np

Array = np.ndarray


def linear_cka(features: Array, other: Array) -> float:
    """Linear centred kernel alignment of features[n, d] and other[n, e], biased, as published; 1 for equal ones.

    Computed from the d × e cross-covariance, which equals the Gram form ⟨K, L⟩/(‖K‖‖L‖) of double-centred
    K = XXᵀ, L = YYᵀ at a cost of n·d·e flops. Constant features have no alignment: NaN.
    Source: Kornblith et al., "Similarity of neural network representations revisited", ICML 2019.
    """
    x = np.asarray(features, np.float64)
    y = np.asarray(other, np.float64)
    x = x - x.mean(0)
    y = y - y.mean(0)
    scale = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.square(x.T @ y).sum() / scale) if scale > 0 else float("nan")
