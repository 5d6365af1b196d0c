"""Pictures of what was measured of one configuration's models and pairs, for the page."""

from collections.abc import Callable, Iterator
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from mdjax.errors import InputError
from mdjax.report.figures import STYLE
from mdjax.report.plots import Plots


@matplotlib.rc_context(STYLE)
def metric_figures(models: pd.DataFrame, pairs: pd.DataFrame, configuration: str) -> Iterator[tuple[str, Figure]]:
    """Titles and pictures of one configuration: density, spectrum, layers, surface, curves, similarity; those it has.

    models, pairs: the frames of a measured table.
    """
    own = models[models["configuration"] == configuration] if "configuration" in models else models.iloc[:0]
    between = pairs[pairs["configuration"] == configuration] if "configuration" in pairs else pairs.iloc[:0]
    plots = Plots(own.reset_index(drop=True), between.reset_index(drop=True))
    drawn: tuple[tuple[str, Callable[..., Any], str | None], ...] = (
        ("Spectral density of the Hessian, with a band of two standard errors", plots.density, None),
        ("Eigenvalues of the Hessian", plots.spectrum, None),
        ("Curvature by layer", plots.layers, None),
        ("Loss around the network", plots.surface, None),
        ("The same in three dimensions", lambda ax: plots.surface(ax=ax, projection="3d"), "3d"),
        ("Error between two networks", plots.curve, None),
        ("Loss between two networks", lambda ax: plots.curve(ax=ax, value="loss"), None),
        ("Similarity of the networks", lambda ax: plots.similarity(ax=ax), None),
    )
    for title, draw, projection in drawn:
        figure = Figure(figsize=(4.9, 3.4), layout="constrained")
        axes = figure.add_subplot(projection=projection)
        try:
            draw(ax=axes)
        except InputError:  # not measured, or of no value for this network, which its status tells
            continue
        if projection is not None:
            axes.set_box_aspect(None, zoom=0.85)  # pyright: ignore[reportCallIssue]
        yield title, figure
