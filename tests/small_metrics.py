"""Every metric, at settings that a test can afford."""

from mdjax.landscape.curves import CurveSettings
from mdjax.metrics import (
    CKA,
    Density,
    Hessian,
    LinearConnectivity,
    Losses,
    ModeConnectivity,
    Similarity,
    Surface,
)

SMALL = {
    "losses": Losses(),
    "hessian": Hessian(num_samples=64, num_smallest=1, max_probes=16),
    "density": Density(num_samples=64, num_runs=2, num_steps=8),
    "mode_connectivity": ModeConnectivity(CurveSettings(num_steps=10, batch_size=32), num_points=3),
    "linear_connectivity": LinearConnectivity(num_points=3),
    "cka": CKA(num_batches=1, batch_size=64),
    "similarity": Similarity(num_samples=64),
    "surface": Surface(num_samples=64, num_points=3),
}
