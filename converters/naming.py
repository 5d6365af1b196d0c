"""What the user says of files where names and configs do not tell it: facts of all files, a pattern that their names
fit, a table with a row for each."""

import csv
import dataclasses
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from converters.layouts.contract import COLUMNS, Candidate
from converters.layouts.files import SEEDS, bare
from converters.reports import Outcome, OutcomeCode
from mdjax.columns import ARCHITECTURE
from mdjax.errors import InputError, first_line
from mdjax.models.architecture import parse_shape, shape_text

NETWORK = ("nonlinearity", "input_shape", "max_pool", "specification", "heads")
"""Facts that weights may not tell of their network, see `converters.recognise`."""

EXAMPLE = "{family}_width{width}_b{batch_size}_seed{seed}*"
"""A pattern, for errors and help."""

_INTEGERS = ("seed", "heads", "width", "depth", "num_classes", "num_params")
_MOST_ONE = ("label_noise", "data_share")
_PIECE = re.compile(r"\{(\w*)\}|(\*)|([^{}*]+)|(.)", re.DOTALL)
_DECIMAL = r"(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
_VALUES = {int: r"\d+", float: _DECIMAL, str: "[^/]+?"}


class Override(NamedTuple):
    """A value that was given, and another that names, configs or the file tell."""

    name: str
    given: Any
    told: Any


@dataclasses.dataclass(frozen=True)
class Given:
    """A file as its layout and the user describe it.

    In `candidate` what was given stands in place of what the layout tells, and `overrides` lists where the two differ;
    `columns` are the training facts that were given, `facts` those of `NETWORK`, and `network` what was given of the
    network that its weights tell.
    """

    candidate: Candidate
    columns: Mapping[str, Any]
    facts: Mapping[str, Any]
    network: Mapping[str, Any]
    overrides: tuple[Override, ...]


class Statements:
    """All that the user says of the files of `src`.

        src: the file or folder that is converted.
        facts: of every file: training facts by their column's name, and those of `NETWORK`.
        pattern: the files' names with fields, such as `EXAMPLE`; "*" stands for anything, and a "/" parts folders.
            Fields become facts; those of other names tell configurations apart, as all do but the seed.
        table: a CSV file with a column `file`, a path below `src`, and facts of that file in the other columns.

    Raises InputError for facts and columns of other names, values that their column cannot hold, a pattern without
    fields, and a table that is malformed or names files that are not there.
    """

    def __init__(self, src: Path, facts: Mapping[str, Any], pattern: str | None, table: str | Path | None):
        for name in map(str, facts):
            if name in ARCHITECTURE:
                raise InputError(f"The weights tell {name}. Leave the fact {name} out.")
            if name in ("seed", "configuration"):
                raise InputError(f"Files do not share their {name}. Give it by --name {EXAMPLE!r} or --facts FILE.csv.")
            if name not in (*NETWORK, *COLUMNS):
                raise InputError(f"Unknown fact {name!r}. Give some of {', '.join([*NETWORK, *COLUMNS])}.")
        self.facts = {name: typed(name, value) for name, value in facts.items()}
        self._root = src.absolute() if src.is_dir() else src.absolute().parent.resolve()
        self._pattern = None if pattern is None else Pattern(pattern)
        self._table = None if table is None else Path(table)
        self._rows = None if table is None else _rows(Path(table), self._root)

    def of(self, candidate: Candidate) -> Given | Outcome:
        """The file as described, or refused where the user's statements leave it out or contradict each other."""
        fields: dict[str, Any] = {}
        if self._pattern is not None:
            found = self._pattern.fields(candidate.path)
            if found is None:
                return _refused(candidate, f"its name does not fit the pattern {self._pattern.text!r}")
            fields |= found
        if self._rows is not None:
            row = self._rows.get(os.path.normpath(candidate.path))
            if row is None:
                return _refused(candidate, f"{self._table} has no row for it")
            if problem := _contradiction(fields, row, str(self._table)):
                return _refused(candidate, problem)
            fields |= row
        if problem := _contradiction(self.facts, fields, "its name or its row"):
            return _refused(candidate, problem)
        given = {**self.facts, **fields}
        if "specification" in given and "nonlinearity" in given:
            return _refused(candidate, "a specification tells the nonlinearities; give only one of the two")
        return self._described(candidate, fields, given)

    def _described(self, candidate: Candidate, fields: Mapping[str, Any], given: Mapping[str, Any]) -> Given:
        columns = {name: given[name] for name in COLUMNS if name in given}
        if "epoch" in columns:
            columns.setdefault("epochs", columns["epoch"])
        if "nonlinearity" not in candidate.known:
            columns.pop("nonlinearity", None)
        facts = {name: given[name] for name in NETWORK if name in given}
        differing = [*overrides(columns, candidate.known), *overrides(facts, candidate.facts)]
        seed = given.get("seed", candidate.seed)
        if not candidate.counted:
            differing += overrides({"seed": seed}, {"seed": candidate.seed})
        described = dataclasses.replace(
            candidate,
            configuration=self._configuration(candidate, fields),
            seed=seed,
            known={**candidate.known, **columns},
            facts={**candidate.facts, **facts},
            counted=candidate.counted and "seed" not in given,
        )
        network = {name: given[name] for name in ARCHITECTURE if name in given}
        return Given(described, columns, facts, network, tuple(dict.fromkeys(differing)))

    def _configuration(self, candidate: Candidate, fields: Mapping[str, Any]) -> str:
        """Its layout's, with all fields but the seed; folders that the pattern describes are left to the pattern."""
        if "configuration" in fields:
            return str(fields["configuration"])
        own = candidate.configuration
        if candidate.by_folder and self._pattern is not None and self._pattern.num_folders:
            folders = [self._root.name, *candidate.path.relative_to(self._root).parent.parts]
            own = "/".join(folders[: -self._pattern.num_folders])
            if "epochs" in candidate.known:
                own += f"-e{candidate.known['epochs']}"
        told = {name: value for name, value in fields.items() if name not in ("seed", "max_pool", "specification")}
        texts = [
            f"{name}={shape_text(value) if isinstance(value, tuple) else value}"
            for name, value in told.items()
            if not name.startswith("logged_")  # results differ between seeds
        ]
        return "/".join(filter(None, (own, "-".join(texts)))) or self._root.name


class Pattern:
    """The names of files with fields in braces; see `Statements`. Raises InputError for one that cannot be read."""

    def __init__(self, text: str):
        self.text = text
        self.num_folders = text.count("/")
        self._names: list[str] = []
        parts = []
        for name, star, plain, stray in (match.groups() for match in _PIECE.finditer(text)):
            if stray or name == "":
                raise InputError(f"Cannot read the pattern {text!r}. Put names in braces, like {EXAMPLE!r}.")
            if name is None:
                parts.append("[^/]*?" if star else re.escape(plain))
            elif name in self._names:
                parts.append(f"(?P={name})")
            else:
                self._names.append(name)
                kind = int if name in _INTEGERS else COLUMNS.get(name, str)
                parts.append(f"(?P<{name}>{_VALUES[kind]})")
        if not self._names or any(name[0].isdigit() for name in self._names):
            raise InputError(f"The pattern {text!r} names no field. Put names in braces, like {EXAMPLE!r}.")
        self._expression = re.compile("".join(parts))

    def fields(self, path: Path) -> dict[str, Any] | None:
        """The values of the fields in a path's last parts, with or without the file's ending; None where none fit."""
        last = "/".join(path.parts[-self.num_folders - 1 :])
        found = self._expression.fullmatch(last) or self._expression.fullmatch(bare(last))
        if found is None:
            return None
        known = (*COLUMNS, *NETWORK, *_INTEGERS)
        try:
            return {name: typed(name, found[name]) if name in known else found[name] for name in self._names}
        except InputError:  # as a label noise of 10
            return None


def typed(name: str, value: Any) -> Any:
    """The value of a fact in the type of its column, from text or as it is; InputError where it is none such."""
    if name == "input_shape":
        return parse_shape(value) if isinstance(value, str) else tuple(int(size) for size in value)
    if name == "max_pool":
        found = {"true": True, "false": False}.get(str(value).lower())
        if found is None:
            raise InputError(f"max_pool is {value!r}. Give true or false.")
        return found
    kind = int if name in _INTEGERS else COLUMNS.get(name, str)
    if kind is str:
        return str(value)
    try:
        number = kind(value) if isinstance(value, str) else value
        if isinstance(number, bool) or number != kind(number) or not 0 <= number < 2**62:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        what = "a whole number" if kind is int else "a number"
        raise InputError(f"{name} is {value!r}. Give {what} of at least 0.") from None
    if name in _MOST_ONE and number > 1:
        raise InputError(f"{name} is {value!r}. Give a fraction between 0 and 1.")
    return kind(number)


def _rows(table: Path, root: Path) -> dict[str, dict[str, Any]]:
    """Whole path of a file → its facts, as the table says."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"Cannot read {table}: {first_line(error)}. Give a CSV file with a column 'file'.") from None
    header = [name.strip() for name in lines[0]] if lines else []
    known = ("seed", "configuration", *ARCHITECTURE, *COLUMNS, *NETWORK)
    if "file" not in header or len(set(header)) < len(header):
        raise InputError(f"{table} has the columns {', '.join(header)}. Give each column once, one of them 'file'.")
    if unknown := [name for name in header if name not in ("file", *known)]:
        raise InputError(
            f"{table} has the unknown column {unknown[0]!r}. Give some of {', '.join(dict.fromkeys(known))}."
        )
    rows: dict[str, dict[str, Any]] = {}
    for number, cells in enumerate(lines[1:], 2):
        if not any(cells):
            continue
        if len(cells) != len(header):
            raise InputError(f"{table}, line {number}, has {len(cells)} cells for {len(header)} columns. Mend it.")
        values = dict(zip(header, map(str.strip, cells)))
        path = os.path.normpath(root / values.pop("file"))
        if not os.path.lexists(path):
            raise InputError(f"{table}, line {number}: there is no file {path}. Give paths below {root}.")
        if path in rows:
            raise InputError(f"{table}, line {number}: {path} has a row already. Give one row per file.")
        try:
            rows[path] = {name: typed(name, value) for name, value in values.items() if value}
        except InputError as error:
            raise InputError(f"{table}, line {number}: {error}") from None
    return rows


def _refused(candidate: Candidate, reason: str) -> Outcome:
    return Outcome(candidate.path, OutcomeCode.REFUSED, reason)


def _differs(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, int | float):
        return not math.isclose(one, other)
    return one != other


def _contradiction(fields: Mapping[str, Any], others: Mapping[str, Any], where: str) -> str:
    for name in fields.keys() & others.keys():
        if _differs(fields[name], others[name]):
            return f"its {name} is given as {fields[name]}, but {where} says {others[name]}"
    return ""


def overrides(given: Mapping[str, Any], told: Mapping[str, Any]) -> list[Override]:
    """Where the two differ."""
    return [
        Override(name, value, told[name])
        for name, value in given.items()
        if told.get(name) is not None and _differs(value, told[name])
    ]


# What names seem to say.

_ABBREVIATIONS = {
    "batch_size": "b|bs|batch|batchsize|batch_size|batch-size",
    "learning_rate": "lr|learning_rate|learning-rate",
    "weight_decay": "wd|weight_decay|weight-decay",
    "width": "w|width",
    "depth": "depth",
    "label_noise": "noise|label_noise|label-noise",
    "data_share": "share|frac|fraction|data_share",
    "momentum": "mom|momentum",
    "seed": "|".join(SEEDS),
}
_SETTING = re.compile(
    r"(?:^|(?<=[-_. ]))(?:"
    + "|".join(f"(?P<{name}>(?:{texts})[-_=]?(?={_DECIMAL}))" for name, texts in _ABBREVIATIONS.items())
    + rf")(?P<value>{_DECIMAL})(?=$|[-_. ])",
    re.IGNORECASE,
)


def settings_in(name: str) -> dict[str, str]:
    """Column → value, as far as a file's name seems to tell its training: `w4_b32_lr0.1.pt` of width 4."""
    found = {_column(match): match["value"] for match in _settings(name)}
    return {column: value for column, value in found.items() if column != "seed"}


_INDEX = re.compile(r"\d+(?!.*\d)", re.DOTALL)


def words_in(name: str) -> tuple[str, str]:
    """What a file's name says beside the settings that `settings_in` reads, and the index in it: `adam_0.pt`."""
    text = bare(name)
    for match in reversed(_settings(name)):
        text = text[: match.start()] + text[match.end() :]
    index = _INDEX.search(text)
    if index is None:
        return text, ""
    return text[: index.start()] + text[index.end() :], index[0]


def suggestion(names: Iterable[str]) -> str:
    """A pattern that tells files of these names apart, where their names are of a usual form; else `EXAMPLE`."""
    paths = [Path(name) for name in names]
    first, pieces, end = bare(paths[0].name), [], 0
    for match in _settings(paths[0].name):
        before = first[end : match.start()]
        pieces.append(re.sub(r"^[A-Za-z]\w*?([-_.])$", r"{family}\1", before) if not end else before)
        pieces.append(first[match.start() : match.start("value")] + f"{{{_column(match)}}}")
        end = match.end()
    texts = ["".join(pieces) + "*", _by_words([bare(path.name) for path in paths])]
    return next((text for text in texts if _tells_apart(text, paths)), EXAMPLE)


def _tells_apart(text: str, paths: Iterable[Path]) -> bool:
    try:
        found = [Pattern(text).fields(path) for path in paths]
    except InputError:
        return False
    return None not in found and len({str(fields) for fields in found}) == len(found)


def _by_words(names: Iterable[str]) -> str:
    """A pattern in which fields stand for the words that differ between names of equally many; "" for other names."""
    rows = [re.split(r"([-_])", name) for name in names]
    if len({len(row) for row in rows}) > 1:
        return ""
    pieces: list[str] = []
    indices: dict[int, str] = {}  # what may be the seed: a number after the same letters in all names
    for number, words in enumerate(zip(*rows)):
        match = _SETTING.fullmatch(words[0])
        stems = {re.sub(r"\d+$", "", word) for word in words}
        if match is not None:
            pieces.append(f"{words[0][: match.start('value')]}{{{_column(match)}}}")
            continue
        if len(stems) == 1 and stems.isdisjoint(words):
            indices[number] = f"{stems.pop()}{{seed}}"
        pieces.append(words[0] if len(set(words)) == 1 else f"{{setting{number // 2 or ''}}}")
    if indices and not any("{seed}" in piece for piece in pieces):
        pieces[max(indices)] = indices[max(indices)]
    return "".join(pieces)


def _settings(name: str) -> list[re.Match[str]]:
    return list(_SETTING.finditer(bare(name)))


def _column(match: re.Match[str]) -> str:
    return next(name for name in _ABBREVIATIONS if match[name] is not None)
