"""Processes of a Ray cluster that begin and end together: one, several, or one on each host of a TPU slice.

A slice of several hosts is one computer to its runtime: it starts when a process on each of its hosts has, and a gang
of such processes is joined by `mdjax.engine.hosts`. What each measures is still its own: no unit spans hosts.
"""

import dataclasses
import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mdjax.engine import tpu_slice
from mdjax.errors import InputError, first_line
from mdjax.sweeps.clusters import imported
from mdjax.sweeps.ray_worker import Place, RayWorker

_MOST_PROCESSES = 4096

_RESERVING = 10.0
"""Seconds that the reservation of a slice, which was free a moment ago, may take."""

_RAYS_NAMES = {"v5e": "v5litepod"}


class Slice(NamedTuple):
    """A TPU slice as Ray calls it: version "v5litepod", topology "4x4"."""

    version: str
    topology: str


class Needs(NamedTuple):
    """What a gang takes of a cluster.

    resources: of each process, by Ray's names.
    num_processes: each on a node of its own.
    slice: whose hosts those nodes are, if any.
    """

    resources: Mapping[str, float]
    num_processes: int = 1
    slice: Slice | None = None

    @property
    def platform(self) -> str:
        """What each process measures on: "cpu", "gpu" or "tpu"."""
        return next((name.lower() for name in self.resources if name != "CPU"), "cpu")

    def __str__(self) -> str:
        each = ", ".join(f"{amount:g} {name}" for name, amount in self.resources.items())
        if self.slice is not None:
            return f"a whole slice {self.slice.version} {self.slice.topology} with {each} on each of its hosts"
        return each if self.num_processes == 1 else f"{each} on each of {self.num_processes} nodes"


@dataclasses.dataclass(eq=False)
class Member:
    """A process of a gang as seen from here: nothing is known of its place before it has answered once."""

    actor: Any
    answer: Any
    place: Place | None = None
    cores: tuple[int, ...] = ()
    is_done: bool = False


@dataclasses.dataclass(eq=False)
class Gang:
    """Its members in the order in which they are numbered, and what gives back their room."""

    members: list[Member]
    release: Callable[[], None]

    @property
    def is_placed(self) -> bool:
        """Whether all have said where they are."""
        return all(member.place is not None for member in self.members)

    @property
    def is_done(self) -> bool:
        """Whether all have found that nothing is left to do."""
        return all(member.is_done for member in self.members)

    def joined(self) -> list[str | None]:
        """Put the members in order and tell how each joins the others, as `mdjax.engine.hosts.join` reads it."""
        if len(self.members) == 1:
            return [None]
        places = {member: member.place for member in self.members}
        # The hosts of a slice are numbered by its runtime, which JAX follows.
        self.members.sort(key=lambda member: -1 if (place := places[member]) is None else place.number)
        first = self.members[0].place
        assert first is not None
        return [f"{first.address}:{first.port},{len(self.members)},{k}" for k in range(len(self.members))]


def parse_gang(asked: int | str) -> tuple[int, Slice | None, int]:
    """How many processes, of which TPU slice if any, and how many chips each has there, from 4, "4" or "v5e-16".

    InputError for other texts, and for slices that Ray does not know.
    """
    text = str(asked).strip().lower().removeprefix("tpu:")
    if text.isdecimal() and 1 <= int(text) <= _MOST_PROCESSES:
        return int(text), None, 1
    try:
        version, sides = tpu_slice(text)
    except InputError:
        raise InputError(
            f"Cannot make a gang of {str(asked)[:80]!r}. Give a number of processes up to {_MOST_PROCESSES}, or a TPU "
            "slice like v5e-16."
        ) from None
    found = Slice(_RAYS_NAMES.get(version, version), "x".join(map(str, sides)))
    imported()
    chips = importlib.import_module("ray.util.tpu").get_chips_per_host(found.topology, found.version)
    return max(1, math.prod(sides) // chips), found, min(chips, math.prod(sides))


def hire(ray: Any, needs: Needs, begin: Callable[[Any], Any]) -> Gang | None:
    """A gang, whose members start when the cluster has room for all of them; None where a slice was taken meanwhile.

    ray: the package, connected.
    needs: what it takes.
    begin: an actor → its first answer.
    """
    options = _options(needs.resources)
    if needs.slice is None and needs.num_processes == 1:
        actor = ray.remote(RayWorker).options(**options).remote()
        return Gang([Member(actor, begin(actor))], lambda: None)
    groups = importlib.import_module("ray.util.placement_group")
    strategies = importlib.import_module("ray.util.scheduling_strategies")
    if needs.slice is None:
        bundles = [dict(needs.resources) for _ in range(needs.num_processes)]
        group = groups.placement_group(bundles, strategy="STRICT_SPREAD")

        def release() -> None:
            groups.remove_placement_group(group)
    else:
        reserved = _reserved(needs)
        if reserved is None:
            return None
        group, release = reserved.placement_group, reserved.shutdown
    members = []
    for number in range(needs.num_processes):
        place = strategies.PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number)
        actor = ray.remote(RayWorker).options(**options, scheduling_strategy=place).remote()
        members.append(Member(actor, begin(actor)))
    return Gang(members, release)


def num_ready(ray: Any, needs: Needs) -> int:
    """For how many gangs the cluster seems to have room now."""
    free = ray.available_resources()
    room = min(int(free.get(name, 0) // (amount * needs.num_processes)) for name, amount in needs.resources.items())
    if needs.slice is None:
        return room
    # Chips enough may belong to several slices; and a host without a free chip counts as a free one to Ray (2.60).
    tpus = importlib.import_module("ray.util.tpu")
    return min(room, tpus.get_num_ready_tpu_slices(needs.slice.topology, f"TPU-{needs.slice.version.upper()}"))


def _options(resources: Mapping[str, float]) -> dict[str, Any]:
    rest = dict(resources)
    own = {"num_cpus": rest.pop("CPU"), "num_gpus": rest.pop("GPU", 0), "max_restarts": 0}
    return own | {"resources": rest}


def _reserved(needs: Needs) -> Any:
    """A slice that is free, held; None where there is none any more."""
    assert needs.slice is not None
    tpus = importlib.import_module("ray.util.tpu")
    try:
        return tpus.SlicePlacementGroup(
            topology=needs.slice.topology,
            accelerator_version=needs.slice.version,
            resources_per_bundle=dict(needs.resources),
            strategy="STRICT_SPREAD",
            head_reservation_timeout_s=_RESERVING,
        )
    except TimeoutError:
        return None
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"Ray cannot reserve a slice {needs.slice.version} {needs.slice.topology}: {first_line(error)}. Give one "
            "that the cluster has."
        ) from error
