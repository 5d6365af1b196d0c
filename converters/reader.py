"""A process of its own that reads files: `python -m converters.reader`, started by `converters.readers`.

It hands over a file's arrays through the file that each task names, and never touches the zoo.
"""

from collections.abc import Callable, Mapping
from typing import Any

from mdjax.pools import Work, serve


def _begin(setup: Mapping[str, Any]) -> Work:
    from converters.own_modules import OwnModule
    from converters.readers import Manner, Refusal, read_here
    from converters.state_dicts import Reading, require_torch
    from converters.tellings import given_of, told_found
    from mdjax.files import writing

    require_torch()
    shape, module = setup["shape"], setup["module"]
    manner = Manner(
        None if shape is None else tuple(shape),
        Reading(**setup["reading"]),
        None if module is None else OwnModule(module),
    )

    def work(what: Mapping[str, Any], advance: Callable[[float], None]) -> dict[str, Any]:
        file = what["file"]
        found = read_here(given_of(what["given"]), manner, keep=file is not None)
        if isinstance(found, Refusal):
            return {"refused": found.reason, "is_unknown": found.is_unknown}
        with writing(f"what was read to {file}", "Free space, then run the same command again."):
            return told_found(found.network, found.model, found.identity.digest, file)

    return work


if __name__ == "__main__":
    serve(_begin)
