"""Outputs that are no plain files: links and pipes are written through, or refused in one sentence; nothing is lost."""

import os
import re
import resource
import socket
import stat
import threading
from pathlib import Path

import pandas as pd
import pytest
from diagnosis_tables import sweep

from converters.cli import main as convert_main
from mdjax import files
from mdjax.cli import main
from mdjax.diagnosis.treefiles import write_entries
from mdjax.errors import InputError
from mdjax.report.page import phase_plot, write_report
from mdjax.sweeps.local import measure
from mdjax.table import Table, write_table
from mdjax.zoo.store import Zoo

SMALL = pd.DataFrame({"configuration": ["c"], "test_error": [30.0]})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A sweep and a table of one row and one feature, quickly drawn, as files beside which commands run."""
    monkeypatch.chdir(tmp_path)
    sweep().to_csv("sweep.csv", index=False)
    SMALL.to_csv("small.csv", index=False)
    return tmp_path


WRITERS = {
    "diagnose": (["diagnose", "sweep.csv", "--out"], "out.csv", "configuration"),
    "grow": (["grow", "sweep.csv", "--questions", "width", "--out"], "out.json", "mdjax-trees"),
    "report": (["report", "small.csv", "--out"], "out.html", "</html>"),
}


def refusal(arguments, capsys, command=main):
    """The only line that a refused command prints."""
    with pytest.raises(SystemExit) as stop:
        command(arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2
    assert "Traceback" not in "\n".join(lines)
    return lines[-1]


@pytest.mark.parametrize("name", WRITERS)
def test_a_link_stays_a_link_and_what_it_leads_to_is_written(folder, name):
    arguments, out, content = WRITERS[name]
    (folder / "elsewhere").mkdir()
    target = folder / "elsewhere" / "target"
    target.write_text("old")
    target.chmod(0o600)
    (folder / out).symlink_to(target)
    main([*arguments, out])
    assert (folder / out).is_symlink()
    assert content in target.read_text(encoding="utf-8")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert not list(folder.rglob(f"{files.TEMPORARY}*"))


@pytest.mark.parametrize("name", WRITERS)
def test_a_pipe_is_written_to_where_someone_reads_it_and_refused_else(folder, name, capsys):
    arguments, out, content = WRITERS[name]
    os.mkfifo(out)
    message = refusal([*arguments, out], capsys)
    assert re.search(r"Cannot write .*: it is a pipe that nobody reads\. Choose", message), message
    found = []
    reader = threading.Thread(target=lambda: found.append((folder / out).read_text(encoding="utf-8")))
    descriptor = os.open(out, os.O_RDONLY | os.O_NONBLOCK)  # lets the writer in whenever the thread starts
    reader.start()
    main([*arguments, out])
    os.close(descriptor)
    reader.join()
    assert content in found[0]
    assert stat.S_ISFIFO((folder / out).stat().st_mode)


def test_devices_and_open_files_are_written_to_and_stay(folder, capfd):
    null = Path("/dev/null").stat()
    main(["report", "small.csv", "--out", "/dev/null"])
    assert os.path.samestat(Path("/dev/null").stat(), null)
    main(["report", "small.csv", "--out", "/dev/stdout"])
    assert capfd.readouterr().out.endswith("</html>\n")
    # A file that is open already is added to, like by any program that prints.
    with (folder / "log").open("w+") as log:
        log.write("before\n")
        log.flush()
        files.write_file(Path(f"/dev/fd/{log.fileno()}"), "page\n")
        log.write("after\n")
        log.seek(0)
        assert log.read() == "before\npage\nafter\n"
    with pytest.raises(InputError, match="Cannot write /dev/full: No space left on device. Choose"):
        write_report("/dev/full", SMALL)


@pytest.mark.parametrize("name", WRITERS)
def test_what_goes_to_standard_output_is_alone_there(folder, name, capfd):
    arguments, out, content = WRITERS[name]
    main([*arguments, out])
    capfd.readouterr()
    main([*arguments, "/dev/stdout"])
    printed, said = capfd.readouterr()
    assert printed == (folder / out).read_text(encoding="utf-8") and content in printed
    assert "/dev/stdout" not in said and len(said) > 20


def test_sockets_folders_and_links_without_end_are_refused(folder, capsys):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.html")
        assert "Cannot write socket.html: it is a socket. Choose" in refusal(
            ["report", "small.csv", "--out", "socket.html"], capsys
        )
    (folder / "loop.html").symlink_to("loop.html")
    (folder / "folder.html").mkdir()
    for name in ("loop.html", "folder.html", "."):
        assert f"Cannot write {name}: " in refusal(["report", "small.csv", "--out", name], capsys)
    assert sorted(path.name for path in folder.iterdir()) == [
        "folder.html",
        "loop.html",
        "small.csv",
        "socket.html",
        "sweep.csv",
    ]


def test_a_link_inside_a_table_or_a_zoo_leads_nowhere(folder):
    """Such a folder may come from anyone; a link that a user names is the user's own."""
    precious = folder / "precious"
    precious.write_text("precious")
    table, zoo = folder / "table", folder / "zoo"
    table.mkdir()
    for name in ("models", "pairs", "configurations"):
        (table / f"{name}.parquet").symlink_to(precious)
    frame = pd.DataFrame({"model_id": ["a"]})
    write_table(table, Table(frame, frame, frame))
    (table / "shards").mkdir()
    zoo.mkdir()
    (zoo / "zoo.json").symlink_to(folder / "none.json")
    (zoo / ".lock").symlink_to(precious)
    with pytest.raises(InputError, match="Cannot write the zoo zoo: Too many levels of symbolic links"):
        Zoo.create(Path("zoo"), data="digits")
    (zoo / ".lock").unlink()
    Zoo.create(zoo, data="digits")
    assert precious.read_text() == "precious"
    assert not (folder / "none.json").exists()
    assert not any(path.is_symlink() for path in (*table.iterdir(), *zoo.iterdir()))


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (main, ["demo", "--out"]),
        (main, ["train", "grid.toml", "--out"]),
        (main, ["measure", "zoo", "--out"]),
        (main, ["check", "net.pt", "--data", "digits", "--out"]),
        (main, ["check", "net.pt", "--data", "digits", "--report"]),
        (main, ["calibrate", "--like", "mlp-w4", "--data", "digits", "--out"]),
        *((main, arguments) for arguments, _, _ in WRITERS.values()),
        (convert_main, ["net.pt", "--out"]),
    ],
)
def test_an_empty_output_is_refused(folder, command, arguments, capsys):
    assert f"argument {arguments[-1]}: The output has an empty name. Name a file" in refusal(
        [*arguments, ""], capsys, command
    )
    assert sorted(path.name for path in folder.iterdir()) == ["small.csv", "sweep.csv"]


def test_an_empty_output_is_refused_in_python(folder):
    calls = (
        lambda: measure("zoo", out=""),
        lambda: Zoo.create("", data="digits"),
        lambda: write_report("", SMALL),
        lambda: phase_plot(sweep(), ""),
        lambda: write_entries([], ""),
    )
    for call in calls:
        with pytest.raises(InputError, match="The output has an empty name"):
            call()


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_keeps_what_was_there(folder, name, capsys):
    """By the largest size of a file, which fails like a full disk in the midst of writing."""
    arguments, out, _ = WRITERS[name]
    (folder / out).write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        message = refusal([*arguments, out], capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert re.search(r"Cannot write .*: File too large\. Choose", message), message
    assert (folder / out).read_text() == "old"
    assert sorted(path.name for path in folder.iterdir()) == sorted([out, "small.csv", "sweep.csv"])
