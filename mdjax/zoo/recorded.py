"""The data that a zoo says its models were trained on, opened where nobody needs to name it."""

from pathlib import Path

from mdjax.errors import InputError
from mdjax.tasks import Task
from mdjax.zoo.arrays import Layout
from mdjax.zoo.data import NAMES, Dataset, load, split_told
from mdjax.zoo.draws import Draw
from mdjax.zoo.store import Zoo


def recorded_data(
    zoo: Zoo, layout: Layout | str | None = None, task: Task | str | None = None, draw: Draw | None = None
) -> Dataset:
    """What a zoo's entry `data` stands for, where the user named no data.

    A zoo may be anyone's, so its word opens little: data by name (`digits`), an .npz inside the zoo's own folder (from
    an object store no data are fetched), and an .npz elsewhere that has the very content that the models were trained
    on, by the fingerprint in the zoo. Raises InputError, which says how to name the data, for anything else.
    """
    told, text = split_told(zoo.data)
    if text in NAMES:
        return load(zoo.data, layout=layout, task=task, draw=draw)
    inside = _inside(zoo.path, text) if isinstance(zoo.path, Path) else None
    if inside is not None:
        return load(f"{told.prefix}{inside}", layout=layout, task=task, draw=draw)
    path = Path(text)
    if not (path.is_absolute() and path.suffix == ".npz" and zoo.fingerprint and path.is_file()):
        raise InputError(
            f"The zoo {zoo.path} says that its models were trained on {zoo.data!r}, which is not opened on its word "
            "alone. Name the data: --data NAME|PATH, or data= in Python."
        )
    if draw is not None:
        raise InputError(
            f"Whether {zoo.data!r} holds what the models were trained on is told by all of it, and only "
            f"{draw.num_examples} examples are to be read. Name the data: --data NAME|PATH, or data= in Python."
        )
    dataset = load(zoo.data, layout=layout, task=task)
    if zoo.fingerprint not in (dataset.fingerprint, layout and load(zoo.data).fingerprint):
        raise InputError(
            f"{zoo.data!r} does not hold what the models of the zoo {zoo.path} were trained on. Name the data to "
            "measure on: --data NAME|PATH, or data= in Python."
        )
    return dataset


def _inside(folder: Path, text: str) -> Path | None:
    """The .npz of a relative path, if it lies in the folder itself, whatever links say."""
    try:
        path = (folder / text).resolve()
        return path if path.suffix == ".npz" and path.is_relative_to(folder.resolve()) and path.is_file() else None
    except (OSError, ValueError):
        return None
