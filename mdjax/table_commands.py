"""The commands on tables, `mdjax diagnose`, `grow` and `report`: arguments → calls, no logic."""

import argparse
from collections.abc import Callable, Container
from pathlib import Path

from mdjax.addresses import Address
from mdjax.arguments import output, source, tell_beside
from mdjax.console import complain, tell
from mdjax.csv_files import csv_text
from mdjax.errors import InputError
from mdjax.files import is_stream, write_file
from mdjax.parquet import frame_bytes

_DIAGNOSE_EPILOG = """\
example:

  mdjax diagnose table
  mdjax diagnose table --configuration mlp-w4-bs256-data1-noise0-lr0.05-m0.9-wd0.0005-e50
  mdjax diagnose table --out verdicts.csv

TABLE is a folder made by 'mdjax measure', or a .parquet or .csv file with the published columns. Where it
holds a sweep with its own test accuracies, what the sweep itself shows is told beside the verdicts, and written
with them: sweep_<question>, the label, and gain_inc_temp, gain_dec_temp, gain_width and gain_data, the points of
test accuracy that the change gained at best."""

_GROW_EPILOG = """\
example:

  mdjax grow table --out trees.json
  mdjax grow table --out trees.json --axes batch=learning_rate,width=depth,within=weight_decay+momentum
  mdjax grow table --out trees.json --questions optimizer,width --method published
  mdjax diagnose other-table --tree trees.json

TABLE holds one row per configuration with a test accuracy, over at least two values of an axis: what sets the
training temperature (batch), the model's size (width) and the amount of data (data). Without --axes they are
chosen by what varies: batch size, or else learning rate; width, or else depth; the amount of data; whatever else
varies has to agree for two configurations to be compared (within). For another column that sets the temperature
say which end is hot: --axes batch=weight_decay,hotter=larger. 'none' leaves a part out: --axes data=none."""

_REPORT_EPILOG = """\
example:

  mdjax report table --out report.html
  mdjax report table --tree cal --compare-tree shipped
  mdjax report noisy-table --compare clean-table
  mdjax report tables/a tables/b tables/c --out reports

A page is one file that opens without network. Of several tables the folder gets one page each, called as their
folders, and index.html, which leads to them."""

TREE_HELP = (
    "trees of the default method, of the paper's fit, those in a file, or the folder of mdjax calibrate "
    "(default: %(default)s)"
)


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the parsers of these commands; `command` makes each of a name, what runs it, a summary and an epilog."""
    diagnose = command("diagnose", _diagnose, "say why each configuration of a table underperforms", _DIAGNOSE_EPILOG)
    diagnose.add_argument("table", type=source, metavar="TABLE")
    diagnose.add_argument("--tree", default="shipped", metavar="shipped|published|FILE|CAL", help=TREE_HELP)
    diagnose.add_argument("--configuration", metavar="NAME", help="explain this one in full")
    diagnose.add_argument("--out", type=output, metavar="FILE", help="write all verdicts as .csv, .json or .parquet")

    grow = command("grow", _grow, "grow trees on a table's own sweep, and say how often they are right", _GROW_EPILOG)
    grow.add_argument("table", type=source, metavar="TABLE")
    grow.add_argument("--out", type=output, required=True, metavar="FILE.json", help="where the trees go")
    grow.add_argument("--axes", default="", metavar="PART=COLUMN,...", help="see below (default: by what varies)")
    grow.add_argument("--method", default="default", metavar="default|published", help="default: %(default)s")
    grow.add_argument("--questions", metavar="a,b", help="optimizer, width, data (default: all that can be grown)")
    grow.add_argument(
        "--min-width", type=float, metavar="N", help="ask the data question from this width on (default: 32; 0: of all)"
    )

    report = command(
        "report", _report, "draw tables as HTML pages to explore, with plots and diagnosis", _REPORT_EPILOG
    )
    report.add_argument("tables", type=source, nargs="+", metavar="TABLE")
    report.add_argument("--tree", default="shipped", metavar="shipped|published|FILE|CAL", help=TREE_HELP)
    report.add_argument("--configuration", metavar="NAME", help="explain this one in full, its path drawn in the trees")
    report.add_argument("--compare", type=source, metavar="TABLE", help="hold the table against another one")
    report.add_argument(
        "--compare-tree", metavar="shipped|published|FILE|CAL", help="hold the verdicts against those of other trees"
    )
    report.add_argument(
        "--out",
        type=output,
        metavar="FILE.html|FOLDER",
        help="a page, or of several tables the folder of their pages (default: report.html, or reports)",
    )


def _diagnose(options: argparse.Namespace) -> None:
    from mdjax.diagnosis.trajectories import training_lines
    from mdjax.diagnosis.verdicts import Diagnosis
    from mdjax.table import read_configurations

    table = read_configurations(options.table)
    diagnosis = Diagnosis.of(table, options.tree)
    if options.configuration is not None:
        lines = [diagnosis.verdict(_pick(table, options)).to_text()]
    else:
        lines = [*_summary(diagnosis.frame), *diagnosis.frame.attrs["cautions"]]
        lines += [*training_lines(table, diagnosis.causes.names()), *diagnosis.sweep_lines()]
        lines += [diagnosis.verdict(0).to_text()] if len(table) == 1 else []
    # Before anything is said: who reads that may stop after a line.
    if options.out is not None:
        _write_frame(diagnosis.frame_with_sweep(), options.out)
    tell_beside(options.out, *lines)


def _grow(options: argparse.Namespace) -> None:
    from mdjax.diagnosis.sweep_axes import parse_axes, sweep_axes
    from mdjax.diagnosis.sweep_trees import grow_sweep
    from mdjax.diagnosis.trees import save_trees
    from mdjax.table import read_configurations

    table = read_configurations(options.table)
    grown = grow_sweep(
        table,
        None if options.questions is None else [name.strip() for name in options.questions.split(",")],
        axes=sweep_axes(table, parse_axes(options.axes)),
        method=options.method,
        min_width=options.min_width,
    )
    save_trees(grown.trees.values(), options.out)
    tell_beside(options.out, f"{grown.to_text()}\n", *([] if is_stream(options.out) else [str(options.out)]))


def _report(options: argparse.Namespace) -> None:
    from mdjax.diagnosis.calibrations import calibration_of
    from mdjax.report.page import write_report
    from mdjax.table import read_measured

    if len(options.tables) > 1:
        _reports(options)
        return
    if options.compare is not None and options.compare_tree is not None:
        raise InputError("Both --compare and --compare-tree are given. A page holds its table against one of them.")
    path = options.tables[0]
    table, calibration = read_measured(path), calibration_of(options.tree)
    compare = None
    if options.compare is not None:
        compare = (str(options.compare), read_measured(options.compare))
    elif options.compare_tree is not None:
        compare = (f"--tree {options.compare_tree}", calibration_of(options.compare_tree) or options.compare_tree)
    out = Path("report.html") if options.out is None else options.out
    write_report(
        out,
        table,
        trees=calibration or options.tree,
        highlight=options.configuration,
        source=str(path),
        compare=compare,
    )
    _tell_without_features(path, table, options.tree)
    if not is_stream(out):
        tell(str(out))


def _reports(options: argparse.Namespace) -> None:
    from mdjax.diagnosis.calibrations import calibration_of
    from mdjax.report.index import INDEX, Source, write_reports
    from mdjax.table import read_measured

    for name in ("configuration", "compare", "compare_tree"):
        if getattr(options, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} is for a report on one table. Leave it out, or give one.")
    out = Path("reports") if options.out is None else options.out
    if out.suffix == ".html":
        raise InputError(f"{out} is one page, and {len(options.tables)} tables are given. Name a folder for --out.")
    if twice := [path for k, path in enumerate(options.tables) if path in options.tables[:k]]:
        raise InputError(f"{twice[0]} is given twice. Give each table once.")
    tables: dict[str, Source] = {}
    for path in options.tables:
        found = Source(read_measured(path), str(path))
        tables[_report_name(path, tables)] = found
    write_reports(out, tables, trees=calibration_of(options.tree) or options.tree)
    for found in tables.values():
        _tell_without_features(found.source, found.table, options.tree)
    tell(str(out / INDEX))


def _report_name(path: Path | Address, taken: Container[str]) -> str:
    """What the page of a table is called: as its folder or file; the folder above comes first where that is taken."""
    absolute = path if isinstance(path, Address) else path.absolute()
    name = absolute.name.removesuffix(absolute.suffix) if absolute.suffix in (".csv", ".parquet") else absolute.name
    if name in taken or name.lower() == "index":
        name = f"{absolute.parent.name}-{name}"
    if name in taken:
        raise InputError(f"Two tables are called {name}, as {path} is. Give each one once, or rename its folder.")
    return name


def _tell_without_features(path, table, tree) -> None:
    from mdjax.report.page import diagnosis_of
    from mdjax.table import Table

    if diagnosis_of(table.configurations.head(1) if isinstance(table, Table) else table.head(1), tree) is None:
        complain(f"{path} has none of the features that the trees read: no diagnosis.")


def _pick(table, options: argparse.Namespace) -> int:
    # Rows without a name are called as the report calls them.
    numbered = [f"row {number}" for number in range(1, len(table) + 1)]
    names = table["configuration"].tolist() if "configuration" in table else numbered
    rows = [row for row, name in enumerate(names) if name == options.configuration]
    if len(rows) != 1:
        raise InputError(
            f"{len(rows)} configurations of {options.table} are named {options.configuration!r}. "
            f"Give one of its {len(table)} names, for instance {names[0]!r}."
        )
    return rows[0]


def _summary(verdicts) -> list[str]:
    counts = verdicts["cause"].value_counts()
    width = max((len(cause) for cause in counts.index), default=0)
    lines = [f"{len(verdicts)} configurations"]
    for cause, count in counts.items():
        change = verdicts.loc[verdicts["cause"] == cause, "recommendation"].iloc[0]
        lines.append(f"  {count:6d}  {cause:<{width}}  → {change}")
    return lines


def _write_frame(frame, path: Path) -> None:
    writers = {
        ".csv": lambda: csv_text(frame),
        ".json": lambda: frame.to_json(orient="records", indent=1),
        ".parquet": lambda: frame_bytes(frame),
    }
    kind = ".csv" if path.suffix not in writers and is_stream(path) else path.suffix
    if kind not in writers:
        raise InputError(f"Cannot write {path}: its ending is {path.suffix!r}. Use .csv, .json or .parquet.")
    write_file(path, writers[kind]())
