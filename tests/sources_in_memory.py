"""Examples as every kind of data set that Python has."""

import numpy as np
import pytest
from PIL import Image


class Indexed:
    """As torch's data sets: an index without an end, and a length."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, number):
        return self.items[number % len(self.items)]


class Loader:
    """As torch's loaders: batches, the last one smaller; a list of inputs and labels each."""

    def __init__(self, items, size=3):
        self.items, self.size = items, size

    def __len__(self):
        return -(-len(self.items) // self.size)

    def __iter__(self):
        for start in range(0, len(self.items), self.size):
            parts = list(zip(*self.items[start : start + self.size]))
            yield [np.stack(part) for part in parts]


def torch_loader(items):
    torch = pytest.importorskip("torch")
    return torch.utils.data.DataLoader([(torch.from_numpy(x).requires_grad_(False), int(y)) for x, y in items], 3)


def torch_iterable(items):
    torch = pytest.importorskip("torch")

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(items)

        def __len__(self):
            return len(items)

    return Stream()


OBJECTS = {
    "list": list,
    "indexed": Indexed,
    "loader": Loader,
    "torch loader": torch_loader,
    "torch iterable": torch_iterable,
    "generator": lambda items: (item for item in items),
    "arrays": lambda items: tuple(np.stack(part) for part in zip(*items)),
    "dictionary": lambda items: {"x": np.stack([x for x, _ in items]), "y": np.array([y for _, y in items])},
    "dictionaries": lambda items: Indexed([{"image": x, "label": y} for x, y in items]),
    "pictures": lambda items: [{"img": Image.fromarray(x), "labels": int(y)} for x, y in items],
    "batches of dictionaries": lambda items: [{"x": np.stack([x for x, _ in items]), "y": [int(y) for _, y in items]}],
}
