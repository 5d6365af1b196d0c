"""Where checkpoints lie: every file of a tree is offered to the layouts in turn.

A new layout is one module that fulfils `contract.Layout`, and its name in _LAYOUTS.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from converters.layouts import cifar, files, huggingface, mode_connectivity, modelzoos, taxonomy
from converters.layouts.contract import Candidate, Layout, forget
from converters.reports import Outcome, OutcomeCode
from converters.safetensors_files import INDEX_SUFFIX, shards_exist
from mdjax.errors import InputError, first_line

_LAYOUTS: tuple[Layout, ...] = (taxonomy, modelzoos, mode_connectivity, cifar, huggingface, files)

LAYOUTS: dict[str, Layout] = {layout.NAME: layout for layout in _LAYOUTS}
"""Name → layout, in the order in which they are asked; the last one takes what looks like a checkpoint at all."""


def find(src: str | Path, format: str = "auto") -> list[Candidate | Outcome]:
    """Every checkpoint file of `src`, a file or a folder of any depth, as one model or as refused or skipped.

    `format` is "auto", where each file goes to the first layout that knows it, or the name of one layout, where the
    others' files are left out. Links to folders are followed, each folder once. Raises InputError where `src` does
    not exist, holds no checkpoints, or there is no such format. A link that leads to the folder it lies in, or to one
    above that, as one to `/`, is not followed.
    """
    if format != "auto" and format not in LAYOUTS:
        raise InputError(f"Unknown format {format!r}. Choose auto or one of {', '.join(LAYOUTS)}.")
    forget()
    layouts = list(LAYOUTS.values()) if format == "auto" else [LAYOUTS[format]]
    given = Path(src)
    # The folders above `src` tell something too, so the path must be whole.
    whole = given.absolute()
    if given.is_dir():
        found = [claim for path in _walk(whole) if (claim := _claim(path, whole, layouts)) is not None]
    elif given.exists():
        claim = _single(given, layouts) or (files.named(_named(given)) if format == "auto" else None)
        found = [] if claim is None else [claim]
    else:
        raise InputError(f"There is no file or folder {given}. Give a checkpoint, or a folder that holds some.")
    if not found:
        what = "known layout" if format == "auto" else f"layout {format} ({LAYOUTS[format].SUMMARY})"
        raise InputError(f"There are no checkpoints in {given} in a {what}. Give a folder that holds some.")
    return found


def _named(given: Path) -> Path:
    """The whole path of a file by the name it was given: a last link stays, those to its folders are followed."""
    return given.absolute().parent.resolve() / given.name


def _single(given: Path, layouts: list[Layout]) -> Candidate | Outcome | None:
    """What a file is by the name it was given, else, where that is a link, by the name of the file it leads to.

    The Hugging Face cache links names to files that are named by their digests; others link a short name to a file in
    a folder that tells its training.
    """
    paths = _names(given)
    if paths[0].name.endswith(INDEX_SUFFIX):
        paths.sort(key=lambda path: not shards_exist(path))
    telling = [layout for layout in layouts if layout is not files]
    tried = [(path, some) for some in (telling, layouts) for path in paths]
    return next((claim for path, some in tried if (claim := _claim(path, path.parent, some)) is not None), None)


def _names(given: Path) -> list[Path]:
    """The whole paths by which a file is known: as given, and each that a link leads to."""
    paths = [_named(given)]
    while paths[-1].is_symlink():  # of an existing file: the links end
        paths.append(_named(paths[-1].parent / paths[-1].readlink()))
    return paths


def _claim(path: Path | Outcome, root: Path, layouts: list[Layout]) -> Candidate | Outcome | None:
    if isinstance(path, Outcome):
        return path
    return next((claim for layout in layouts if (claim := layout.claim(path, root)) is not None), None)


def _walk(root: Path) -> Iterator[Path | Outcome]:
    """All files below a folder, sorted; a folder that cannot be opened is an outcome of its own."""
    unreadable: list[OSError] = []
    visited: set[tuple[int, int]] = set()
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            this = _identity(folder)
            with os.scandir(folder) as entries:
                members = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            unreadable.append(error)
            continue
        if this in visited:
            continue
        visited.add(this)
        folders = [entry for entry in members if _is_folder(entry)]
        for path in (Path(entry.path) for entry in members if entry not in folders):
            shown = str(path).encode("utf-8", "replace").decode()
            yield (
                path if shown == str(path) else Outcome(Path(shown), OutcomeCode.REFUSED, "its name is no valid UTF-8")
            )
        upwards = [entry for entry in folders if entry.is_symlink() and _leads_upwards(entry)]
        for entry in upwards:
            reason = "it links to a folder that it lies in, and is not followed"
            yield Outcome(Path(entry.path), OutcomeCode.SKIPPED, reason)
        pending += [Path(entry.path) for entry in reversed(folders) if entry not in upwards]
    for error in unreadable:
        yield Outcome(Path(str(error.filename)), OutcomeCode.REFUSED, f"it cannot be opened: {first_line(error)}")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def _leads_upwards(link: os.DirEntry[str]) -> bool:
    """Whether a link to a folder leads to the one it lies in, or to one above: `/` and a parent hold SRC itself."""
    folder = Path(link.path).parent.resolve()
    return _identity(Path(link.path)) in {_identity(above) for above in (folder, *folder.parents)}


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
