"""Test accuracy as a function of size, data and temperature: learnt from small networks, asked about larger ones.

A zoo of small networks says what each change of width, amount of data and temperature brought there. A Gaussian process
over the logarithms of the three continues that to networks like them: its mean is what a change would bring, its spread
how far that is known. Its own measured accuracy is taken as one more observation of the network that is asked about.
Source of the idea: Zhou et al., "MD tree", ICML 2024, section on transfer across scale; of the process: Rasmussen &
Williams, "Gaussian Processes for Machine Learning", 2006, chapter 2.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

from mdjax.errors import InputError

CHANGES = ("hotter", "colder", "wider", "more data")
"""The changes that a verdict weighs, in the order of `mdjax.diagnosis.causes.CAUSES`."""

_AXES = ("temperature", "width", "data")
_LEAST_ERROR = 0.3
"""Percent: errors below are not told apart, or the logit of an accuracy of 100 % would be infinite."""

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
    best: np.ndarray  # by the best step, [changes]
    best_se: np.ndarray
    is_most: np.ndarray  # the probability that a change brings most of all, [changes]; they add to 1 or less
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
            process.fit(_scaled(logs, logs), _centred(values)[0])
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
        targets, center, scale = _centred(self.accuracy)
        x, places = _scaled(known, known), _scaled(logs, known)
        if own is not None:
            x = np.vstack([x, places[:1]])
            targets = np.append(targets, (_logit(np.array([own])) - center) / scale)
        covariance = kernel(x) + _JITTER * np.eye(len(x))
        factor = cho_factor(covariance, lower=True)
        across = kernel(places, x)  # between different places there is no noise
        mean = across @ cho_solve(factor, targets)
        spread = _smooth(kernel)(places) - across @ cho_solve(factor, across.T)
        values, vectors = np.linalg.eigh((spread + spread.T) / 2)
        root = vectors * np.sqrt(np.maximum(values, 0))
        noise = np.random.default_rng(0).standard_normal((_DRAWS, len(places)))
        return _percent((mean + noise @ root.T) * scale + center)

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


def _kernel() -> Any:
    # Accuracy rises or falls along an axis (linear), has an optimum somewhere (smooth), and moves with the seeds.
    scales: Any = [1.0, 2.0, 2.0]
    smooth = ConstantKernel(1.0, (1e-2, 1e2)) * RBF(scales, [(0.3, 30)] * 3)
    linear = ConstantKernel(0.3, (1e-3, 1e2)) * DotProduct(1.0, "fixed")
    return smooth + linear + WhiteKernel(0.05, (1e-3, 1.0))


def _smooth(kernel: Any) -> Any:
    """The kernel without the noise of single observations."""
    return kernel.k1


def _scaled(logs: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Logarithms in units of their spread among the observations; an axis that does not vary there is left out."""
    spread = known.std(axis=0)
    return np.where(spread > 0, (logs - known.mean(axis=0)) / np.where(spread > 0, spread, 1), 0.0)


def _centred(accuracy: np.ndarray) -> tuple[np.ndarray, float, float]:
    logits = _logit(accuracy)
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
    """From the draws' room for improvement at every place, [draws, places], and each change's places."""

    def moments(values: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return np.array([one.mean() for one in values]), np.array([one.std() for one in values])

    nowhere = np.full(len(room), np.nan)
    ones = [room[:, side[0]] if side else nowhere for side in sides]
    bests = [np.maximum(room[:, side].max(axis=1), 0) if side else nowhere for side in sides]
    rooms = np.stack([np.nan_to_num(best) for best in bests], axis=1)
    most = rooms.argmax(axis=1)
    is_most = np.array([np.mean((most == k) & (rooms.max(axis=1) > 0)) for k in range(len(sides))])
    hot, cold, wide, data = rooms.T
    heat = np.maximum(hot, cold)
    beats = {"optimizer": _share(hot, cold), "width": _share(wide, heat), "data": _share(data, heat)}
    return Gains(*moments(ones), *moments(bests), is_most, beats)


def _share(first: np.ndarray, second: np.ndarray) -> float:
    """How often the first is greater, of the draws in which they differ; one half where they never do."""
    different = first != second
    return float((first > second)[different].mean()) if different.any() else 0.5
