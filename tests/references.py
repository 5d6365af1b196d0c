"""Published definitions written out with NumPy, and networks in float64: what results are compared with."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers import trained


def calibration_error(logits, labels, num_bins=15):
    """Guo et al., eq. 3, bin by bin as it is written: in percent."""
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    total = 0.0
    for number in range(num_bins):
        inside = (confidence > number / num_bins) & (confidence <= (number + 1) / num_bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return 100 * total


def published_cka(gram, other):
    """⟨HKH, HLH⟩ / ‖HKH‖‖HLH‖."""
    center = np.eye(len(gram)) - 1 / len(gram)
    k, l = center @ gram @ center, center @ other @ center  # noqa: E741
    return (k * l).sum() / np.linalg.norm(k) / np.linalg.norm(l)


def unbiased_cka(gram, other):
    """Song et al., eq. 5, from Gram matrices without their diagonals."""
    n, ones = len(gram), np.ones(len(gram))

    def hsic(k, l):  # noqa: E741
        k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
        return (
            np.trace(k @ l)
            + (ones @ k @ ones) * (ones @ l @ ones) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (ones @ k @ l @ ones)
        )

    return hsic(gram, other) / np.sqrt(hsic(gram, gram) * hsic(other, other))


def outputs64(family, index, inputs, layer):
    """A trained model's layer in float64, flattened per example."""
    architecture, params, state = trained(family)
    with jax.enable_x64(True):
        weights = jax.tree.map(lambda leaf: jnp.asarray(leaf[index], jnp.float64), (params, state))
        inputs = jnp.asarray(inputs, jnp.float64)
        if layer in ("softmax", "logits"):
            logits = architecture.model("lax").apply(*weights, inputs)
            return np.asarray(jax.nn.softmax(logits) if layer == "softmax" else logits)
        _, variables = architecture.model("lax").module.apply(
            dict(zip(("params", "batch_stats"), weights)), inputs, capture_intermediates=True, mutable=["intermediates"]
        )
        return np.asarray(variables["intermediates"][layer]["__call__"][0]).reshape(len(inputs), -1)
