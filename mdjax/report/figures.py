"""The report's pictures: features and causes over width × batch size, as SVG or PNG bytes.

Text in a picture may come from files of others, so none of it is read as mathematics.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter

from mdjax.columns import Feature, described
from mdjax.diagnosis.causes import CAUSES, HELD_BACK, NO_CLEAR_FAILURE, UNKNOWN
from mdjax.diagnosis.checks import numeric_column
from mdjax.diagnosis.quantities import QUANTITIES, quantity
from mdjax.diagnosis.questions import QUESTIONS
from mdjax.diagnosis.stages import Stage
from mdjax.escapes import printable
from mdjax.report.panels import PanelGrid

Categories = Sequence[Any] | np.ndarray  # the category of each row of a table

_LARGEST = 1e100
"""What larger numbers are drawn as: matplotlib adds and multiplies the ends of what it draws."""


OVERVIEW = ("test_error", "train_error", "hessian_t", "mode_connectivity_peak", "CKA", "hessian_e")


@dataclass(frozen=True)
class Mark:
    """How a category looks: a colour-blind safe colour (Okabe and Ito), and a shape for those who see none."""

    colour: str
    marker: str
    glyph: str  # the shape as a character, for the page's text


LOW, HIGH, WIDTH, DATA = (cause.meaning for cause in CAUSES)
_UNCLEAR = Mark("#d9d9d9", "o", "●")
MARKS: dict[str, Mark] = {
    LOW: Mark("#56b4e9", "v", "▼"),
    HIGH: Mark("#d55e00", "^", "▲"),
    WIDTH: Mark("#cc79a7", "s", "■"),
    DATA: Mark("#009e73", "D", "◆"),
    NO_CLEAR_FAILURE: _UNCLEAR,
    **{
        HELD_BACK[stage][0]: mark
        for stage, mark in {
            Stage.DIVERGED: Mark("#000000", "X", "✖"),
            Stage.CHANCE: Mark("#7f7f7f", "p", "⬟"),
            Stage.MISMATCH: Mark("#0072b2", "d", "♦"),
            Stage.NOT_CONVERGED: Mark("#f0e442", ">", "▶"),
            Stage.OUTSIDE: Mark("#ffffff", "o", "○"),
        }.items()
    },
    UNKNOWN: Mark("#ffffff", "x", "×"),
    **{
        name: Mark("#e69f00", "P", "✚")
        for name in ("temperature", QUESTIONS["width"].meaning["batch"], QUESTIONS["data"].meaning["batch"])
    },
    "optimal": _UNCLEAR,
}

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "mdjax",  # the same picture is the same bytes
    "svg.fonttype": "path",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "hatch.linewidth": 0.6,
    "hatch.color": "#a0a0a0",
}
"""What all pictures of a report have in common, as matplotlib's settings."""


def features(table: pd.DataFrame) -> dict[str, Feature]:
    """The features that a table has and that are drawn, by column: those that trees know first, then its own."""
    named = {name: feature_of(name) for name in QUANTITIES} | described(table)
    return {name: feature for name, feature in named.items() if feature.drawn and name in table.columns}


def feature_of(name: str, table: pd.DataFrame | None = None) -> Feature:
    """How people read a column: as the table describes it, else as the trees' quantities do, else by its name."""
    if table is not None and name in (own := described(table)):
        return own[name]
    this = quantity(name)
    return Feature(name, printable(this.title or name), this.unit, log_colours=this.log_colours)


def rendered(figure: Figure, kind: str = "svg") -> bytes:
    """The figure as a file of that kind (svg, png, pdf), the same bytes for the same figure."""
    buffer = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
    return buffer.getvalue()


@matplotlib.rc_context(STYLE)
def feature_figure(table: pd.DataFrame, column: str, grid: PanelGrid, causes: Categories | None = None) -> Figure:
    """One feature over width × batch size, a panel for each data share, with each cell's cause marked on it.

    table: one row per configuration.
    column: the feature's.
    grid: where the rows stand.
    causes: of each row, keys of `MARKS`; None to mark none.
    """
    values, norm = _values(table, column, grid)
    figure, panels = _canvas(1, len(grid.panels), legend=causes is not None, bar=True)
    for k, axes in enumerate(panels[0]):
        _mesh(axes, grid, grid.cells(values, k), "viridis", norm)
        _label_axes(axes, grid, grid.panels[k][0], left=k == 0)
        _mark(axes, grid, k, causes)
    _colour_bar(figure, panels[0], feature_of(column, table), norm)
    _legend(figure, causes if causes is None else np.asarray(causes)[grid.drawn()], grid, [values])
    return figure


@matplotlib.rc_context(STYLE)
def overview_figure(
    table: pd.DataFrame, columns: Sequence[str], grid: PanelGrid, causes: Categories | None = None
) -> Figure:
    """Up to six features over width × batch size at the largest data share, with each cell's cause marked on it.

    table: one row per configuration.
    columns: the features'.
    grid: where the rows stand.
    causes: of each row, keys of `MARKS`; None to mark none.
    """
    grid, columns = grid.last(), list(columns)[:6]
    across = min(3, len(columns))
    down = -(-len(columns) // across)
    figure, panels = _canvas(down, across, legend=causes is not None, wide=3.3)
    share = f", at {grid.panels[0][0]}" if grid.panels[0][0] else ""
    figure.suptitle(f"Over width and batch size{share}", fontsize=10.5)
    drawn = []
    for k, axes in enumerate(panels.flat):
        if k >= len(columns):
            axes.set_axis_off()
            continue
        values, norm = _values(table, columns[k], grid)
        drawn.append(values)
        _mesh(axes, grid, grid.cells(values, 0), "viridis", norm)
        below = k + across >= len(columns)
        _label_axes(axes, grid, feature_of(columns[k], table).label, left=k % across == 0, below=below)
        _mark(axes, grid, 0, causes)
        _colour_bar(figure, [axes], feature_of(columns[k], table), norm, titled=False)
    _legend(figure, causes if causes is None else np.asarray(causes)[grid.drawn()], grid, drawn)
    return figure


@matplotlib.rc_context(STYLE)
def category_figure(rows: Mapping[str, Categories], grid: PanelGrid) -> Figure:
    """Categories (keys of MARKS) over width × batch size: a row for each title, a panel for each data share."""
    figure, panels = _canvas(len(rows), len(grid.panels), legend=True)
    palette = list(MARKS)
    colours, norm = ListedColormap([MARKS[name].colour for name in palette]), Normalize(-0.5, len(palette) - 0.5)
    drawn = []
    for i, (title, categories) in enumerate(rows.items()):
        codes = np.array([palette.index(name) if name in MARKS else np.nan for name in categories], dtype=float)
        drawn.append(codes)
        for k, axes in enumerate(panels[i]):
            _mesh(axes, grid, grid.cells(codes, k), colours, norm)
            heading = grid.panels[k][0]
            # The title runs over several panels: an empty line keeps its place.
            _label_axes(axes, grid, f"\n{heading}" if title else heading, left=k == 0, below=i == len(rows) - 1)
            if title and k == 0:
                above = axes.annotate(title, (0, 1), (0, 19), xycoords="axes fraction", textcoords="offset points")
                above.set(weight="bold", in_layout=False)
            _mark(axes, grid, k, categories, edge="#333333", face="none")
    shown = [np.asarray(categories, dtype=object)[grid.drawn()] for categories in rows.values()]
    _legend(figure, np.concatenate(shown), grid, drawn)
    return figure


def _values(table: pd.DataFrame, column: str, grid: PanelGrid) -> tuple[np.ndarray, Normalize]:
    """The finite values of a column, up to `_LARGEST`, and the colours' range: that of the rows that are drawn."""
    values = numeric_column(table, column)
    values = np.where(np.isfinite(values), np.clip(values, -_LARGEST, _LARGEST), np.nan)
    drawn = values[grid.drawn()]
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return values, Normalize(0, 1)
    low, high = float(drawn.min()), float(drawn.max())
    if low == high:
        return values, Normalize(low - 0.5, high + 0.5)
    if feature_of(column, table).log_colours and low > 0 and high / low > 10:
        return values, LogNorm(low, high)
    return values, Normalize(low, high)


def _canvas(
    down: int, across: int, *, legend: bool, bar: bool = False, wide: float = 2.75
) -> tuple[Figure, np.ndarray]:
    size = (max(4.4, wide * across + 0.5 + 0.8 * bar), 2.55 * down + 0.2 + 0.35 * legend)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(down, across, squeeze=False)


def _cell_bounds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where cells lie on a logarithmic axis: their centres, and the edges halfway between them."""
    centres = np.log2(values)
    if len(centres) == 1:
        return centres, np.array([centres[0] - 0.5, centres[0] + 0.5])
    halves = (centres[1:] + centres[:-1]) / 2
    return centres, np.concatenate([[2 * centres[0] - halves[0]], halves, [2 * centres[-1] - halves[-1]]])


def _mesh(axes: Axes, grid: PanelGrid, cells: np.ndarray, colours: str | ListedColormap, norm: Normalize) -> None:
    """The cells in colour; those without a value show the hatched ground."""
    axes.patch.set(facecolor="#eeeeee", hatch="////")
    edges = _cell_bounds(grid.widths)[1], _cell_bounds(grid.batches)[1]
    axes.pcolormesh(*edges, np.ma.masked_invalid(cells), cmap=colours, norm=norm, rasterized=True)


def _label_axes(axes: Axes, grid: PanelGrid, title: str, *, left: bool, below: bool = True) -> None:
    axes.set_title(title)
    for axis, values in ((axes.xaxis, grid.widths), (axes.yaxis, grid.batches)):
        shown = np.unique(np.linspace(0, len(values) - 1, min(len(values), 6)).round().astype(int))
        axis.set_ticks(_cell_bounds(values)[0][shown], [f"{values[i]:g}" for i in shown])
    axes.tick_params(labelleft=left, labelbottom=below, length=2.5)
    if below:
        axes.set_xlabel("width (channels, log)")
    if left:
        axes.set_ylabel("batch size (log)")


def _mark(
    axes: Axes,
    grid: PanelGrid,
    panel: int,
    categories: Categories | None,
    *,
    edge: str = "white",
    face: str | None = None,
) -> None:
    """The shape of its category in the middle of each cell."""
    if categories is None:
        return
    x, y = _cell_bounds(grid.widths)[0], _cell_bounds(grid.batches)[0]
    indices = grid.panels[panel][1]
    here = np.asarray(categories, dtype=object)[indices]
    size = float(np.clip(60 / max(len(x), len(y)), 3.0, 7.0))
    for name, mark in MARKS.items():
        chosen = indices[here == name]
        if not len(chosen):
            continue
        lines = "#333333" if mark is _UNCLEAR else edge
        axes.plot(
            x[grid.column[chosen]],
            y[grid.row[chosen]],
            linestyle="none",
            marker=mark.marker,
            markersize=0.6 * size if mark is _UNCLEAR else size,
            markerfacecolor=face or mark.colour,
            markeredgecolor=lines,
            markeredgewidth=0.5 if mark is _UNCLEAR else 0.7,
        )


def _decades(low: float, high: float) -> list[float]:
    """Round numbers between two positive ones: powers of ten, and 2 and 5 times them where those are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    round_numbers = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    ticks = [value for value in round_numbers if low <= value <= high]
    return ticks if len(ticks) <= 7 else [value for value in ticks if math.log10(value).is_integer()]


def _colour_bar(figure: Figure, panels: Any, feature: Feature, norm: Normalize, *, titled: bool = True) -> None:
    bar = figure.colorbar(ScalarMappable(norm, "viridis"), ax=list(panels), aspect=18, pad=0.015)
    bar.formatter = FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−"))
    if isinstance(norm, LogNorm):
        bar.set_ticks(_decades(float(norm.vmin or 0), float(norm.vmax or 0)))
        # Its own labels are formulae.
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
    bar.update_ticks()
    if titled:
        bar.set_label(feature.unit or feature.title)


def _legend(figure: Figure, categories: Categories | None, grid: PanelGrid, drawn: Sequence[np.ndarray]) -> None:
    """What each shape means, for those that occur, and the hatched ground where a drawn column has holes."""
    there = set() if categories is None else set(categories)
    roomy = figure.get_figwidth() > 7
    handles: list[Line2D | Patch] = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=mark.marker,
            markersize=7,
            markerfacecolor=mark.colour,
            markeredgecolor="#333333",
            markeredgewidth=0.7,
            label=name,
        )
        for name, mark in MARKS.items()
        if name in there
    ]
    if any(np.isnan(grid.cells(values, k)).any() for values in drawn for k in range(len(grid.panels))):
        handles.append(Patch(facecolor="#eeeeee", edgecolor="#a0a0a0", hatch="////", label="not measured"))
    if handles:
        ncols = len(handles) if roomy and len(handles) <= 6 else 4 if roomy else 2
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=ncols,
            columnspacing=1.4,
            handletextpad=0.5,
            frameon=False,
        )
