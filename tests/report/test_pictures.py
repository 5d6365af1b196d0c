"""Pictures of whole tables in Python: similarity, surfaces in three dimensions, features over epochs."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from report_tables import sweep

from mdjax.errors import InputError
from mdjax.report.metric_figures import metric_figures
from mdjax.table import Table

TABLE = sweep(2)


def test_similarity_is_a_symmetric_matrix():
    ax = TABLE.plot.similarity(configuration="net-5")
    drawn = ax.images[0].get_array()
    assert drawn.mask.tolist() == [[True, False], [False, True]] and drawn[0, 1] == drawn[1, 0] == 0.75


def test_a_surface_has_three_dimensions():
    ax = TABLE.plot.surface(projection="3d")
    assert ax.name == "3d" and ax.get_zlabel() == "loss"


def test_features_are_drawn_over_epochs():
    frame = TABLE.configurations.iloc[[0] * 3].assign(
        epochs=[3, 1, 2], test_error=[1.0, 3.0, 2.0], configuration=["c", "a", "b"]
    )
    line = Table(TABLE.models, TABLE.pairs, frame).plot.training().lines[0]
    np.testing.assert_array_equal(line.get_xydata(), [[1, 3], [2, 2], [3, 1]])


def test_the_page_draws_every_metric_that_was_measured():
    titles = [title for title, _ in metric_figures(TABLE.models, TABLE.pairs, "net-5")]
    assert len(titles) == 8 and "The same in three dimensions" in titles
    assert not list(metric_figures(TABLE.models, TABLE.pairs, "net-1"))


def test_refusals():
    for draw, message in (
        (lambda: TABLE.plot.similarity("agreement"), "no agreement of pairs. Measure cka or similarity"),
        (lambda: TABLE.plot.similarity(configuration="net-1"), "no pair of configuration net-1"),
        (lambda: TABLE.plot.surface(projection="2d"), "projection is '2d'. Draw contours"),
        (TABLE.plot.training, "no test_error over epochs. Measure three or more checkpoints"),
    ):
        with pytest.raises(InputError, match=message):
            draw()
