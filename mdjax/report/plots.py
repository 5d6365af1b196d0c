"""What a table holds of single models and pairs, drawn with matplotlib: `table.plot.density()` and its like."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mdjax.diagnosis.checks import numeric_column
from mdjax.diagnosis.trajectories import trajectories
from mdjax.errors import InputError
from mdjax.escapes import printable
from mdjax.report.figures import feature_of

_MATRICES = ("hessian", "gauss_newton")


class Plots:
    """The pictures of a table. Each takes `row`, the position of a model or pair or its name ("a" or ("a", "b")), and
    `ax`, matplotlib axes to draw on (default: new ones); and returns the axes.

    Raises InputError where the table lacks what is drawn, with the metric that measures it.
    """

    def __init__(self, models: pd.DataFrame, pairs: pd.DataFrame, configurations: pd.DataFrame | None = None):
        self._models, self._pairs, self._configurations = models, pairs, configurations

    def density(self, row: int | str = 0, ax: Any = None) -> Any:
        """The spectral density of the Hessian with a band of two standard errors."""
        found = self._model(row, "density_grid", "density")
        grid, density, error = (np.asarray(found[name], float) for name in ("density_grid", "density", "density_se"))
        ax = _axes(ax)
        # Densities span many powers of ten, down to where nothing was seen.
        floor = max(density.max(), 1e-30) * 1e-7
        ax.fill_between(grid, np.maximum(density - 2 * error, floor), np.maximum(density + 2 * error, floor), alpha=0.3)
        ax.plot(grid, np.maximum(density, floor))
        ax.set(yscale="log", xlabel="eigenvalue", ylabel="density", title=_title(found, "spectral density"))
        return ax

    def spectrum(self, row: int | str = 0, ax: Any = None) -> Any:
        """The eigenvalues that were found, largest first, with their residuals."""
        matrix = next((name for name in _MATRICES if f"{name}_eigenvalues" in self._models), "hessian")
        found = self._model(row, f"{matrix}_eigenvalues", "hessian")
        ax = _axes(ax)
        for kind, marker in (("eigenvalues", "o"), ("smallest_eigenvalues", "s")):
            if f"{matrix}_{kind}" not in found:
                continue
            values = np.atleast_1d(np.asarray(found[f"{matrix}_{kind}"], float))
            residuals = found[f"{matrix}_{'eigenvalue' if kind == 'eigenvalues' else 'smallest'}_residuals"]
            error = np.abs(values) * np.atleast_1d(np.asarray(residuals, float))
            ax.errorbar(np.arange(1, len(values) + 1), values, error, fmt=marker, label=kind.replace("_", " "))
        ax.set(xlabel="number", ylabel=f"eigenvalue of the {matrix.replace('_', '-')}", title=_title(found, "spectrum"))
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(frameon=False)
        return ax

    def layers(self, row: int | str = 0, ax: Any = None) -> Any:
        """Trace and largest eigenvalue of each layer's diagonal block."""
        matrix = next((name for name in _MATRICES if f"{name}_layers" in self._models), "hessian")
        found = self._model(row, f"{matrix}_layers", "hessian, with hessian.by_layer=true")
        names = [printable(str(name)) for name in found[f"{matrix}_layers"]]
        ax, places = _axes(ax), np.arange(len(names))
        trace, error = (np.asarray(found[f"{matrix}_layer_{name}"], float) for name in ("trace", "trace_se"))
        ax.barh(places - 0.2, trace, 0.4, xerr=error, label="trace")
        ax.barh(places + 0.2, np.asarray(found[f"{matrix}_layer_eigenvalue"], float), 0.4, label="largest eigenvalue")
        ax.set_yticks(places, names, parse_math=False)
        ax.invert_yaxis()
        ax.set(xlabel=f"of the {matrix.replace('_', '-')}", title=_title(found, "layers"))
        ax.legend(frameon=False)
        return ax

    def surface(self, row: int | str = 0, ax: Any = None, value: str = "loss", projection: str = "contour") -> Any:
        """Loss, or error in percent, along a line or over a plane through the model: as contours, or as "3d"."""
        if value not in ("loss", "error"):
            raise InputError(f"value is {value!r}. Draw the loss or the error.")
        if projection not in ("contour", "3d"):
            raise InputError(f"projection is {projection!r}. Draw contours (contour), or three dimensions (3d).")
        found = self._model(row, f"surface_{value}", "surface")
        x, values = (np.asarray(list(found[name]), dtype=object) for name in ("surface_x", f"surface_{value}"))
        x = x.astype(float)
        if "surface_y" not in found or found["surface_y"] is None:
            if projection == "3d":
                raise InputError(
                    f"The surface of {found['model_id']} is a line, which has no third dimension. Draw it as contour, "
                    "or measure surface.dimensions=2."
                )
            ax = _axes(ax)
            ax.plot(x, values.astype(float))
            ax.set(
                xlabel="distance from the model", ylabel=value, title=_title(found, f"{value} along a line through", "")
            )
            return ax
        plane = np.array([np.asarray(line, float) for line in values])
        y = np.asarray(found["surface_y"], float)
        if projection == "3d":
            ax = _axes(ax, "3d")
            # Rows are steps along the first direction.
            ax.plot_surface(*np.meshgrid(x, y), plane.T, cmap="viridis", linewidth=0, rasterized=True)
            ax.set_zlabel(value)
        else:
            ax = _axes(ax)
            drawn = ax.contourf(x, y, plane.T, levels=20)
            ax.figure.colorbar(drawn, ax=ax, label=value)
            ax.plot([0], [0], "w+")
        ax.set(xlabel="first direction", ylabel="second direction", title=_title(found, f"{value} around", ""))
        return ax

    def similarity(self, column: str = "CKA", configuration: str | None = None, ax: Any = None) -> Any:
        """Models × models: a number of each pair as a matrix, of one configuration or of all pairs in the table.

        column: of the pairs, such as CKA, agreement or linear_barrier.
        """
        pairs = self._pairs
        if column not in pairs or not pairs[column].notna().any():
            raise InputError(f"The table has no {column} of pairs. Measure cka or similarity, of two or more seeds.")
        if configuration is not None:
            pairs = pairs[pairs["configuration"] == configuration]
            if not len(pairs):
                raise InputError(f"There is no pair of configuration {configuration} in the table.")
        names = list(dict.fromkeys((*pairs["model_a"], *pairs["model_b"])))
        place = {name: number for number, name in enumerate(names)}
        matrix = np.full((len(names), len(names)), np.nan)
        for a, b, value in zip(pairs["model_a"], pairs["model_b"], numeric_column(pairs, column), strict=True):
            matrix[place[a], place[b]] = matrix[place[b], place[a]] = value
        ax = _axes(ax)
        ax.patch.set(facecolor="#eeeeee", hatch="////")
        drawn = ax.imshow(np.ma.masked_invalid(matrix), cmap="viridis")
        ax.figure.colorbar(drawn, ax=ax, label=column)
        told = [printable(str(name))[-16:] for name in names]
        ax.set_xticks(range(len(names)), told, rotation=45, ha="right", parse_math=False)
        ax.set_yticks(range(len(names)), told, parse_math=False)
        if len(names) <= 12:
            for (i, j), value in np.ndenumerate(matrix):
                if np.isfinite(value):
                    ax.text(j, i, f"{value:.2f}", ha="center", va="center", color="white", fontsize=8)
        ax.set_title(f"{column} between models")
        return ax

    def training(self, feature: str = "test_error", ax: Any = None) -> Any:
        """A feature of configurations over epochs, a line for each training with three or more checkpoints."""
        table = self._configurations
        found = [] if table is None else trajectories(table)
        if table is None or feature not in table or not found:
            raise InputError(
                f"The table has no {feature} over epochs. Measure three or more checkpoints of a training, which "
                "differ in their epochs alone."
            )
        ax, values = _axes(ax), numeric_column(table, feature)
        for one in found:
            ax.plot(one.epochs, values[one.rows], "o-", markersize=3, label=printable(one.name).replace("$", r"\$"))
        ax.set(xlabel="epochs", ylabel=feature_of(feature, table).label)
        if 1 < len(found) <= 10:
            ax.legend(frameon=False)
        return ax

    def curve(self, row: int | tuple[str, str] = 0, ax: Any = None, value: str = "error") -> Any:
        """Error in percent, or loss, along the curve and the line between two models, with the barrier marked."""
        if value not in ("loss", "error"):
            raise InputError(f"value is {value!r}. Draw the loss or the error.")
        kinds = [kind for kind in ("curve", "linear") if f"{kind}_{value}" in self._pairs]
        if not kinds or not len(self._pairs):
            raise InputError(
                "The table holds no curve between two models. Measure mode_connectivity or linear_connectivity, of two "
                "or more seeds."
            )
        found, ax = self._row(self._pairs, ("model_a", "model_b"), row), _axes(ax)
        for kind, name in (("curve", "curve"), ("linear", "straight line")):
            if kind not in kinds:
                continue
            t, values = (np.atleast_1d(np.asarray(found[f"{kind}_{part}"], float)) for part in ("t", value))
            if len(t) < 2 or np.isnan(values).all():
                raise InputError(
                    f"The pair {found['model_a']} and {found['model_b']} has no {name}: {found['status']}."
                )
            (line,) = ax.plot(t, values, "o-", markersize=3, label=name)
            rise = values - ((1 - t) * values[0] + t * values[-1])
            if np.isfinite(rise).all() and rise.max() > 0:
                top = int(rise.argmax())
                ax.vlines(t[top], values[top] - rise[top], values[top], colors=line.get_color(), linestyles=":")
                told = f"barrier {rise[top]:.3g}"
                ax.annotate(told, (t[top], values[top]), (0, -6), textcoords="offset points", ha="center", va="top")
        ends = " and ".join(printable(str(found[name])) for name in ("model_a", "model_b"))
        ax.set(xlabel="t", ylabel="error (%)" if value == "error" else "loss")
        ax.set_title(f"between {ends}", parse_math=False)
        ax.legend(frameon=False)
        return ax

    def _model(self, row: int | str, column: str, metric: str) -> dict[str, Any]:
        if column not in self._models:
            raise InputError(f"The table has no {column}. Measure {metric}.")
        found = self._row(self._models, ("model_id",), row)
        if found[column] is None or (np.ndim(found[column]) == 0 and pd.isna(found[column])):
            raise InputError(f"{found['model_id']} has no {column}: {found['status']}.")
        return found

    def _row(self, frame: pd.DataFrame, keys: Sequence[str], row: Any) -> dict[str, Any]:
        if isinstance(row, int | np.integer):
            if not -len(frame) <= int(row) < len(frame):
                raise InputError(f"There is no row {row} of {len(frame)}.")
            return {str(name): value for name, value in frame.iloc[int(row)].items()}
        names = (row,) if isinstance(row, str) else tuple(row)
        here = np.logical_and.reduce([(frame[key] == name).to_numpy() for key, name in zip(keys, names, strict=False)])
        if len(names) != len(keys) or not here.any():
            raise InputError(f"There is no row of {' and '.join(map(str, names))} in the table.")
        return {str(name): value for name, value in frame[here].iloc[0].items()}


def _axes(ax: Any, projection: str | None = None) -> Any:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained", subplot_kw={"projection": projection})[1]


def _title(found: dict[str, Any], what: str, of: str = " of") -> str:
    # Names may come from files of others: none of it is read as mathematics.
    return printable(f"{what}{of} {found['model_id']}").replace("$", r"\$")
