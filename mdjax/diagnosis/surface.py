"""Test accuracy as a function of size, data and temperature: learnt from small networks, asked about larger ones.

A zoo of small networks says what each change of width, amount of data and temperature brought there. A Gaussian process
over the logarithms of the three continues that to networks like them: its mean is what a change would bring, its spread
how far that is known. Before anything is seen, errors are expected to fall as a power of width and of data, and to have
an optimum somewhere in the temperature. Its own measured accuracy is taken as one more observation of the network that
is asked about. Source of the idea: Zhou et al., "MD tree", ICML 2024, section on transfer across scale; of the process:
Rasmussen & Williams, "Gaussian Processes for Machine Learning", 2006, chapters 2 and 4; of the power: Hestness et al.,
"Deep learning scaling is predictable, empirically", 2017 (exponents up to 0.35 for data).
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

from mdjax.errors import InputError

CHANGES = ("hotter", "colder", "wider", "more data")
"""The changes that a verdict weighs, in the order of `mdjax.diagnosis.causes.CAUSES`."""

_AXES = ("temperature", "width", "data")
_LEAST_ERROR = 0.3
"""Percent: errors below are not told apart, or the logit of an accuracy of 100 % would be infinite."""

_EXPONENT = 0.3
"""Of width and of data, by which errors are expected to fall."""

SLACK = 0.5
"""Points of test accuracy by which another change may bring more than one that is right all the same."""

_DRAWS = 400
_MOST_POINTS = 5000
"""Of a surface that is read: its covariance takes 200 MB and a factorisation of minutes; those grown have hundreds."""

_GREATEST_THETA = 20
"""The parameters' bounds lie within e^±7."""

_JITTER = 1e-8


class Points(NamedTuple):
    """Configurations, each an array [points] of positive numbers; a higher `temperature` is hotter."""

    temperature: np.ndarray
    width: np.ndarray
    data: np.ndarray

    def logs(self) -> np.ndarray:
        """[points, 3]."""
        return np.column_stack([np.log(np.asarray(values, float)) for values in self])


class Gains(NamedTuple):
    """What each of `CHANGES` would bring one configuration, in points of test accuracy, from draws of the surface.

    NaN where a change has nowhere to go.
    """

    one: np.ndarray  # by one step, [changes], mean over draws
    one_se: np.ndarray  # and its standard deviation
    best: np.ndarray  # by the step that is expected to bring most, [changes]; at least 0
    best_se: np.ndarray
    is_right: np.ndarray  # the probability that no other change brings over `SLACK` points more, [changes]
    beats: dict[str, float]  # question → the probability of its first class


@dataclasses.dataclass(frozen=True)
class Surface:
    """A fitted surface: the observations and the kernel's parameters, which make it again."""

    points: Points
    accuracy: np.ndarray  # percent, [points]
    theta: np.ndarray  # logarithms of the kernel's parameters

    @classmethod
    def fitted(cls, points: Points, accuracy: np.ndarray) -> Self:
        """The surface of greatest marginal likelihood. Cost: some hundred factorisations of [points, points].

        points: at least four, of which some differ.
        accuracy: test accuracy in percent, [points].

        Raises InputError for fewer points, and for what is not finite.
        """
        logs, values = points.logs(), np.asarray(accuracy, float)
        if len(values) < 4 or not np.isfinite(logs).all() or not np.isfinite(values).all():
            raise InputError(
                f"A surface needs at least 4 configurations with a test accuracy, got {len(values)}. Grow more of them."
            )
        process: Any = GaussianProcessRegressor(_kernel(), n_restarts_optimizer=2, random_state=0, alpha=_JITTER)
        with warnings.catch_warnings():
            # A parameter at its bound is a fact of the data: an axis that does not matter.
            warnings.simplefilter("ignore", ConvergenceWarning)
            process.fit(_scaled(logs, logs), _centred(logs, values)[0])
        return cls(points, values, np.asarray(process.kernel_.theta))

    def gains(self, asked: Mapping[str, float], own: float | None, steps: Mapping[str, Sequence[float]]) -> Gains:
        """What the changes would bring one configuration.

        asked: its `temperature`, `width` and `data`.
        own: its measured test accuracy in percent, or None.
        steps: for each of the three the other values that it could take, in any order.
        """
        here = np.log([asked[name] for name in _AXES])
        lines = {name: np.log(np.sort([*steps.get(name, ()), asked[name]])) for name in _AXES}
        places = [here]
        index: dict[str, list[int]] = {}
        for axis, name in enumerate(_AXES):
            index[name] = []
            for value in lines[name]:
                place = here.copy()
                place[axis] = value
                index[name].append(len(places) if not np.isclose(value, here[axis]) else 0)
                if index[name][-1]:
                    places.append(place)
        draws = self._draws(np.array(places), own)
        room = draws - draws[:, :1]
        sides = {
            "hotter": _beyond(lines["temperature"], index["temperature"], here[0], upwards=True),
            "colder": _beyond(lines["temperature"], index["temperature"], here[0], upwards=False),
            "wider": _beyond(lines["width"], index["width"], here[1], upwards=True),
            "more data": _beyond(lines["data"], index["data"], here[2], upwards=True),
        }
        return _gains(room, [sides[name] for name in CHANGES])

    def accuracies(self, points: Points) -> tuple[np.ndarray, np.ndarray]:
        """The expected test accuracy of configurations in percent, and its standard deviation: two arrays [points]."""
        draws = self._draws(points.logs(), None)
        return draws.mean(axis=0), draws.std(axis=0)

    def _draws(self, logs: np.ndarray, own: float | None) -> np.ndarray:
        """Accuracies in percent at places [places, 3], drawn jointly: [draws, places]; the first may be observed."""
        kernel = _kernel().clone_with_theta(self.theta)
        known = self.points.logs()
        targets, center, scale = _centred(known, self.accuracy)
        x, places = _scaled(known, known), _scaled(logs, known)
        if own is not None:
            x = np.vstack([x, places[:1]])
            targets = np.append(targets, (_logit(np.array([own])) - _expected(logs[:1], known) - center) / scale)
        covariance = kernel(x) + _JITTER * np.eye(len(x))
        factor = cho_factor(covariance, lower=True)
        across = kernel(places, x)  # between different places there is no noise
        mean = across @ cho_solve(factor, targets)
        spread = _smooth(kernel)(places) - across @ cho_solve(factor, across.T)
        values, vectors = np.linalg.eigh((spread + spread.T) / 2)
        root = vectors * np.sqrt(np.maximum(values, 0))
        noise = np.random.default_rng(0).standard_normal((_DRAWS, len(places)))
        return _percent((mean + noise @ root.T) * scale + center + _expected(logs, known))

    def to_dict(self) -> dict[str, Any]:
        """The surface as plain values for JSON."""
        points = {name: np.asarray(values, float).tolist() for name, values in self.points._asdict().items()}
        return {"points": points, "accuracy": self.accuracy.tolist(), "theta": self.theta.tolist()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The surface that `to_dict` described; KeyError, TypeError or ValueError for anything else."""
        points = Points(*(np.array(content["points"][name], float) for name in Points._fields))
        found = cls(points, np.array(content["accuracy"], float), np.array(content["theta"], float))
        arrays = (*points, found.accuracy, found.theta)
        if any(values.ndim != 1 or not np.isfinite(values).all() for values in arrays):
            raise ValueError("its arrays are no lists of finite numbers")
        if any((values <= 0).any() for values in points) or not 4 <= len(found.accuracy) <= _MOST_POINTS:
            raise ValueError(f"its points are not 4 to {_MOST_POINTS} of positive numbers")
        if (np.abs(found.theta) > _GREATEST_THETA).any():
            raise ValueError("its kernel is none that is fitted")
        same = {len(values) for values in (*points, found.accuracy)}
        if len(same) != 1 or len(found.theta) != len(_kernel().theta):
            raise ValueError("its arrays do not fit each other")
        return found


class _Trend(DotProduct):
    """Covariance of what is linear in width and data; along the temperature nothing rises for ever."""

    def __init__(self, sigma_0: float = 0.0, sigma_0_bounds: Any = "fixed"):
        super().__init__(sigma_0, sigma_0_bounds)

    def __call__(self, X: np.ndarray, Y: np.ndarray | None = None, eval_gradient: bool = False) -> Any:
        return super().__call__(X[:, 1:], None if Y is None else Y[:, 1:], eval_gradient)

    def diag(self, X: np.ndarray) -> np.ndarray:
        return super().diag(X[:, 1:])


def _kernel() -> Any:
    # Accuracy rises or falls along width and data, bends everywhere, and moves with the seeds.
    scales: Any = [1.0, 2.0, 2.0]
    bends = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(scales, [(0.3, 30)] * 3, nu=1.5)
    trend = ConstantKernel(0.3, (1e-3, 1e2)) * _Trend()
    return bends + trend + WhiteKernel(0.05, (1e-3, 1.0))


def _smooth(kernel: Any) -> Any:
    """The kernel without the noise of single observations."""
    return kernel.k1


def _scaled(logs: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Logarithms in units of their spread among the observations; an axis that does not vary there is left out."""
    spread = known.std(axis=0)
    return np.where(spread > 0, (logs - known.mean(axis=0)) / np.where(spread > 0, spread, 1), 0.0)


def _expected(logs: np.ndarray, known: np.ndarray) -> np.ndarray:
    """What is expected of the logits before any is seen, but for a constant: [points]; of axes that vary in `known`."""
    varies = known[:, 1:].std(axis=0) > 0
    return _EXPONENT * logs[:, 1:][:, varies].sum(axis=1)


def _centred(logs: np.ndarray, accuracy: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Logits less what was expected of them, in units of their spread; and their mean and spread."""
    logits = _logit(accuracy) - _expected(logs, logs)
    center, scale = float(logits.mean()), float(max(logits.std(), 1e-3))
    return (logits - center) / scale, center, scale


def _logit(accuracy: np.ndarray) -> np.ndarray:
    error = np.clip(100 - np.asarray(accuracy, float), _LEAST_ERROR, 100 - _LEAST_ERROR)
    return np.log((100 - error) / error)


def _percent(logits: np.ndarray) -> np.ndarray:
    return 100 / (1 + np.exp(-logits))


def _beyond(line: np.ndarray, index: list[int], here: float, *, upwards: bool) -> list[int]:
    """The places on a line further than here in one direction, nearest first."""
    further = [place for value, place in zip(line, index) if place and ((value > here) == upwards)]
    return further if upwards else further[::-1]


def _gains(room: np.ndarray, sides: list[list[int]]) -> Gains:
    """From the draws' room for improvement at every place, [draws, places], and each change's places.

    A change's best step is the one that is expected to bring most: whoever follows it cannot try them all, as the
    greatest of every draw would.
    """

    def moments(values: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return np.array([one.mean() for one in values]), np.array([one.std() for one in values])

    nowhere = np.full(len(room), np.nan)
    ones = [room[:, side[0]] if side else nowhere for side in sides]
    expected = room.mean(axis=0)
    bests = [np.maximum(room[:, max(side, key=expected.__getitem__)], 0) if side else nowhere for side in sides]
    rooms = np.nan_to_num(np.stack(bests, axis=1))
    near_most = (rooms >= rooms.max(axis=1, keepdims=True) - SLACK).mean(axis=0)
    is_right = np.where([bool(side) for side in sides], near_most, 0.0)
    hot, cold, wide, data = rooms.T
    heat = hot if hot.mean() >= cold.mean() else cold
    beats = {"optimizer": _share(hot, cold), "width": _share(wide, heat), "data": _share(data, heat)}
    return Gains(*moments(ones), *moments(bests), is_right, beats)


def _share(first: np.ndarray, second: np.ndarray) -> float:
    """How often the first is greater, of the draws in which they differ; one half where they never do."""
    different = first != second
    return float((first > second)[different].mean()) if different.any() else 0.5
