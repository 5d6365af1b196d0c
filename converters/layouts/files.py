"""Any tree of checkpoint files: a folder is a configuration, the files in it are its seeds."""

import re
from pathlib import Path

from converters.errors import RefusedError
from converters.layouts.contract import Candidate, remembered
from converters.reports import Outcome, OutcomeCode
from converters.safetensors_files import INDEX_SUFFIX, shards

NAME = "files"
SUMMARY = "CONFIGURATION/SEED.pt"

SUFFIXES = (".pt", ".pth", ".pkl", ".ckpt", ".tar", ".bin", ".safetensors", ".pt2", ".t7", ".distcp", INDEX_SUFFIX)
"""What a checkpoint's name ends in; `checkpoints` without any ending is one too."""

SEEDS = ("seed", "randomseed", "s", "rng")
"""What a seed is called in names. Where one is called so in full, no other number is taken for it."""

_IN_FULL = re.compile(r"(?:^|(?<=[-_./= ]))(?:random)?seed[-_= ]?(\d{1,9})(?=$|[-_./ ])", re.IGNORECASE)
_IN_SHORT = re.compile(r"(?:^|(?<=[-_./= ]))(?:s|rng)[-_=]?(?!\d+\.\d)(\d{1,9})(?=$|[-_./ ])", re.IGNORECASE)
_EPOCH = re.compile(r"(?:^|(?<=[-_./ ]))(?:epoch|ep|checkpoint|ckpt)[-_= ]?(\d{1,9})(?=$|[-_./ ])", re.IGNORECASE)
_CHECKPOINT = re.compile(
    r"(?:^|(?<=[-_./ ]))(?:(?P<stopped>early[-_ ]?stop(?:ped|ping)?)|(?P<best>best)|(?P<last>last|latest|final)|"
    r"model|checkpoint|ckpt|weights|pytorch|state[-_ ]?dict)(?=$|[-_./ ])",
    re.IGNORECASE,
)
"""Words of a name that say which checkpoint of a training run it is, or just that it is one."""

_RANKS = {"stopped": 0, "best": 1, "last": 2, None: 3}
"""Which of a run's checkpoints is taken: as in the published analyses, the best one before the last."""

_SHARD = re.compile(r"-\d{5}-of-\d{5}\.(safetensors|bin)$")


def claim(path: Path, root: Path) -> Candidate | Outcome | None:
    """A model by its path below `root`. Its configuration is its folder, together with an epoch in its name.

    Its seed is the number after "seed" (or another of `SEEDS`) in its name or its folder's, else its index among the
    files beside it. Files whose names differ only in words like "best" and "last" are checkpoints of one training run.
    """
    if not path.name.endswith(SUFFIXES) and path.name != "checkpoints":
        return None
    if path.name in _members(path.parent):
        return Outcome(path, OutcomeCode.SKIPPED, "part of a sharded checkpoint")
    if _SHARD.search(path.name):
        return Outcome(path, OutcomeCode.REFUSED, "it is one of several shards, but no index beside it names it")
    return named(path, root)


def named(path: Path, root: Path | None = None) -> Candidate:
    """A model by its path, whatever the ending of its name."""
    root = root or path.parent
    below = path.relative_to(root)
    folders = [root.name, *below.parent.parts]
    stem, number = path.name.split(".")[0], seed_in(path.name)
    epoch = _EPOCH.search(stem)
    if number is None and len(folders) > 1 and (number := seed_in(folders[-1])) is not None:
        # A folder per seed may hold several checkpoints of its run, which are no seeds of each other.
        folders = [*folders[:-1], without_seed(folders[-1]), "" if epoch else stem]
    return Candidate(
        path=path,
        model_id=f"{root.name}/{below.as_posix()}",
        configuration="/".join(filter(None, folders)) + (f"-e{int(epoch[1])}" if epoch else ""),
        seed=_indices(path.parent).get(path.name, 0) if number is None else number,
        known={"epochs": int(epoch[1])} if epoch else {},
        rank=min((_RANKS[word.lastgroup] for word in _CHECKPOINT.finditer(path.name)), default=_RANKS[None]),
        by_folder=True,
        run=(below.parent / _run(path.name)).as_posix(),
        counted=number is None,
    )


def bare(name: str) -> str:
    """A file's name without the endings of checkpoints: `a.pth.tar` → `a`."""
    while ending := next((ending for ending in SUFFIXES if name.endswith(ending) and name != ending), ""):
        name = name.removesuffix(ending)
    return name


def _run(name: str) -> str:
    """A file's name without its seed and what says which of its run's checkpoints it is."""
    return re.sub(r"[-_. ]{2,}", "-", _CHECKPOINT.sub("", without_seed(bare(name)))).strip("-_. ")


def seed_in(name: str) -> int | None:
    """The number that a name calls its seed, as in `run_seed3`, `seed=3.pt`, `vgg-seed-3` or `adam_s3`."""
    matches = _seeds(name)
    return int(matches[0][1]) if matches else None


def without_seed(name: str) -> str:
    """A name without its seed, so that the runs of a configuration share it; may be empty."""
    for match in reversed(_seeds(name)):
        name = name[: match.start()] + name[match.end() :]
    return re.sub(r"[-_. ]{2,}", "-", name).strip("-_. ")


def _seeds(name: str) -> list[re.Match[str]]:
    # The last of those in short: in vit_s16_s0 the first one is a size.
    return list(_IN_FULL.finditer(name)) or list(_IN_SHORT.finditer(name))[-1:]


@remembered
def _indices(folder: Path) -> dict[str, int]:
    """Name → index, of the checkpoints in a folder."""
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(SUFFIXES))
    except OSError:
        return {}
    return {name: index for index, name in enumerate(names)}


@remembered
def _members(folder: Path) -> frozenset[str]:
    """The files of a folder that an index there lists."""
    found: set[str] = set()
    for index in folder.glob(f"*{INDEX_SUFFIX}"):
        try:
            found |= {shard.name for shard in shards(index)}
        except RefusedError:  # told of the index itself
            continue
    return frozenset(found)
