"""A command and what is around it: streams that are closed, full or ASCII, signals, homes, links and pipes."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
from diagnosis_tables import zoo as table_of

from converters.errors import RefusedError
from converters.reports import Note, NoteCode, Outcome, OutcomeCode, Report
from mdjax import cli, console, processes, progress
from mdjax.diagnosis.trees import as_trees
from mdjax.errors import InputError
from mdjax.report.page import write_report
from mdjax.table import read_configurations

HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\u202egnp\x9b1m"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\r\u202egnp\x9b1m"


class Refusing(io.StringIO):
    """A stream that takes nothing more, as a full disk or a pipe whose reader has gone."""

    def __init__(self, error):
        super().__init__()
        self._error = error

    def write(self, text):
        raise self._error


def stream(encoding="utf-8", errors="strict"):
    return io.TextIOWrapper(io.BytesIO(), encoding, errors)


def written(text):
    return text.buffer.getvalue().decode(text.encoding)


@pytest.fixture
def table(tmp_path):
    frame = table_of(12).drop(columns=["optimizer_failure", "bs_failure"], errors="ignore")
    frame.loc[0, "configuration"] = f"net{HOSTILE}"
    frame.to_parquet(tmp_path / "table.parquet", index=False)
    return tmp_path / "table.parquet"


# What is said.


def test_names_are_shown_and_not_obeyed_wherever_something_is_said(capsys):
    outcomes = [Outcome(Path(f"a{HOSTILE}.pt"), code, f"it holds {HOSTILE}") for code in OutcomeCode]
    console.show(Report(Path(f"zoo{HOSTILE}"), tuple(outcomes)).table())
    console.tell(f"table{HOSTILE}: 3 models", "half a pair: \ud800, a byte: \udcff", "[red]:warning:[/]")
    console.warn(HOSTILE)
    for code in (NoteCode.OVERRIDDEN, NoteCode.OWN_MODULE):
        console.tell(Note(code, "one\ntwo").to_text())
    with progress.progress(f"title{HOSTILE}", 2) as advance:
        advance(1, title=f"next{HOSTILE}")
    out, error = capsys.readouterr()
    assert not set("\x1b\x07\r\x9b\u202e") & {*out, *error}
    assert out.count(SHOWN) == 6 and error.count(SHOWN) == 3
    assert r"half a pair: \ud800, a byte: \udcff" in out and "[red]:warning:[/]" in out
    assert "one\\ntwo\none\ntwo\n" in out


def test_a_bar_on_a_terminal_shows_names_and_lets_warnings_pass(monkeypatch):
    drawn = stream()
    drawn.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", drawn)
    monkeypatch.setenv("TERM", "xterm")
    with progress.progress(f"[b]{HOSTILE}", 2) as advance:
        console.warn(HOSTILE)
        advance(2)
    text = written(drawn)
    assert f"[b]{SHOWN} " in text and f"warning: {SHOWN}" in text and "2/2" in text
    assert "\x1b]0;" not in text and "\u202e" not in text


@pytest.mark.parametrize("error", [InputError, RefusedError])
def test_an_error_is_one_line_whatever_names_it_tells(error):
    assert str(error(f"Cannot read {HOSTILE}\nmdjax: all is well.")) == rf"Cannot read {SHOWN}\nmdjax: all is well."
    assert str(error(str(error("a\nb")))) == r"a\nb"


def test_commands_show_names_in_errors_texts_and_pages(table, tmp_path, capsys):
    cli.main(["diagnose", str(table), "--configuration", f"net{HOSTILE}"])
    frame = read_configurations(table).drop(columns=["width", "bs", "data"])  # of which pictures would be drawn
    trees = {"optimizer": as_trees("shipped")["optimizer"]}
    write_report(tmp_path / "page.html", frame, trees=trees, highlight=f"net{HOSTILE}", source=HOSTILE)
    for arguments in (["diagnose", f"{HOSTILE}.csv"], ["diagnose", str(table), HOSTILE]):
        with pytest.raises(SystemExit):
            cli.main(arguments)
    out, error = capsys.readouterr()
    page = (tmp_path / "page.html").read_text()
    assert out.count(SHOWN) == 1 and error.count(SHOWN) == 3 and page.count(SHOWN) >= 2
    assert not set("\x1b\x07\r\x9b\u202e") & {*out, *error, *page}


@pytest.mark.parametrize(
    ("encoding", "arrow", "signs"), [("ascii", "->", "e +- x"), ("latin-1", "->", "é ± ×"), ("utf-8", "→", "é ± ×")]
)
def test_every_encoding_takes_what_is_said(encoding, arrow, signs, table, monkeypatch):
    out, error = stream(encoding), stream(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", error)
    cli.main(["diagnose", str(table)])
    console.show(Report(Path("zoo"), (Outcome(Path("α.pt"), OutcomeCode.REFUSED, "é ± × …"),)).table())
    with progress.progress("measuring é", 1) as advance:
        console.warn("→ ± × – “é” ━ α")
        advance()
    with pytest.raises(SystemExit):
        cli.main(["measure", "--help"])
    text = written(out)
    assert f"  {arrow} " in text and all(sign in text for sign in signs.split())
    assert f"warning: {arrow} {signs[2:]}" in written(error)
    assert (r"\u03b1.pt" in text) == (encoding != "utf-8")


@pytest.mark.parametrize(("columns", "width"), [("0", 80), ("1", 40), ("-3", 80), ("many", 80), ("100", 100)])
def test_a_width_that_holds_no_words_is_not_taken(columns, width, monkeypatch):
    drawn = stream()
    drawn.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", drawn)
    monkeypatch.setattr("os.get_terminal_size", lambda *_: os.terminal_size((80, 24)))
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", columns)
    monkeypatch.setenv("TERM", "xterm")
    assert console.console_of(console.OUTPUT).width == width and console.console_of(console.OUTPUT).height > 0
    console.show(Report(Path("zoo"), (Outcome(Path("seed1.pt"), OutcomeCode.REFUSED, "no checkpoint"),)).table())
    assert "seed1.pt" in written(drawn) and "checkpoint" in written(drawn)


def test_a_file_has_a_line_of_progress_now_and_then(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.progress("training", 100, done=20) as advance:
        for _ in range(40):
            now[0] += 10
            advance()
        now[0] += 86_400
        advance(39, title="measuring")
        advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["training 20/100 0:00:00", "training 23/100 0:00:30 left 0:12:50"]
    assert lines[-2].startswith("measuring 99/100 1 day, 0:06:40 left")
    assert lines[-1] == "measuring 100/100 1 day, 0:06:40"
    assert len(lines) == 16


# Streams.


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), BrokenPipeError(32, "Broken pipe")])
def test_results_that_are_not_taken_are_told_and_verdicts_written_before(error, table, tmp_path, monkeypatch, capsys):
    closed = isinstance(error, BrokenPipeError)
    for arguments in (["diagnose", str(table), "--out", str(tmp_path / "v.csv")], ["report", "--help"], ["--version"]):
        monkeypatch.setattr(sys, "stdout", Refusing(error))
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == (141 if closed else 2)
        told = (
            ""
            if closed
            else "mdjax: error: Cannot write to standard output: No space left on device. Send it elsewhere.\n"
        )
        assert capsys.readouterr().err == told
    assert len(pd.read_csv(tmp_path / "v.csv")) == 12


@pytest.mark.parametrize("broken", [Refusing(OSError(28, "full")), Refusing(BrokenPipeError(32, "gone")), None])
def test_the_work_goes_on_where_standard_error_takes_nothing(broken, monkeypatch):
    monkeypatch.setattr(sys, "stderr", broken)
    with progress.progress("measuring", 2) as advance:
        console.warn("lost")
        advance(2)
    with pytest.raises(SystemExit) as stop:
        cli.main(["diagnose", "none"])
    assert stop.value.code == 2


def child(code, **options):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, text=True, **options)


def test_a_process_without_streams_or_with_full_ones_ends_as_it_should():
    code = (
        "import os, warnings; from mdjax import processes, console\n"
        "def command():\n"
        "    console.warn('x'); warnings.warn('y'); assert os.open('/dev/null', os.O_RDONLY) > 2\n"
        "    {}\n"
        "processes.run('mdjax', command, own_process=True)"
    )
    with Path("/dev/full").open("w") as full:
        for body, status in (("pass", 0), ("console.tell('z')", 2)):
            assert child(code.format(body), stdout=full, stderr=full).wait(60) == status
    closing = "import os; os.closerange(0, 3); import sys; sys.stdout = sys.stderr = None\n"
    for body, status in (("pass", 0), ("console.tell('z')", 2)):
        assert child(closing + code.format(body)).wait(60) == status


def test_a_standard_output_that_is_closed_is_told(table, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    for arguments in (["diagnose", str(table)], ["diagnose", str(table), "--out", "/dev/stdout"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 2
        assert re.fullmatch(r"mdjax: error: Cannot write .*: it is closed\..*\n", capsys.readouterr().err)


def test_warnings_of_libraries_are_shown_and_not_obeyed():
    code = (
        "import warnings; from mdjax import processes\n"
        f"processes.run('mdjax', lambda: warnings.warn({HOSTILE!r}, RuntimeWarning), own_process=True)"
    )
    _, error = child(code, stderr=subprocess.PIPE, encoding="utf-8").communicate(timeout=60)
    assert error == f"warning: {SHOWN}\n"


# Signals.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_heard_whatever_the_main_thread_does_with_it(number):
    heard, ended = threading.Event(), []
    former = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for one in former:  # a background job starts with some of them ignored, and they would stay so
        signal.signal(one, signal.SIG_DFL)
    give_back = processes.end_by_signals(lambda given: (ended.append(given), heard.set()))
    try:
        try:
            signal.raise_signal(number)
            assert heard.wait(60)
        except BaseException as error:  # what swallowed one interrupt in fourteen
            pytest.fail(f"{type(error).__name__} was raised in the main thread")
        assert ended == [number]
    finally:
        give_back()
        for one, handler in former.items():
            signal.signal(one, handler)


def test_signals_that_are_ignored_or_another_s_stay_so(monkeypatch):
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        processes.end_by_signals(lambda number: None)()
        assert signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGINT, former)


@pytest.mark.parametrize("is_read", [True, False])
def test_an_interrupted_process_says_so_clears_up_and_ends_with_130(tmp_path, is_read):
    code = (
        "import signal, time; from pathlib import Path; from mdjax import files, processes\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # children of background jobs ignore it\n"
        "def command():\n"
        f"    with files.replacing(Path({str(tmp_path / 'out')!r})) as temporary:\n"
        "        temporary.write_text('half'); print('ready', flush=True)\n"
        "        while True:\n"
        "            try: time.sleep(60)\n"
        "            except BaseException: pass\n"
        "processes.run('mdjax', command, own_process=True)"
    )
    process = child(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    if not is_read:
        process.stderr.close()  # as where the interrupt ended `tee`, too
    process.send_signal(signal.SIGINT)
    if is_read:
        _, error = process.communicate(timeout=60)
        assert error == "mdjax: interrupted; give the same command again to go on from here\n"
    assert process.wait(60) == 130
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("thread", [False, True])
def test_a_child_that_is_forked_has_its_own_signals_and_unfinished_files(tmp_path, thread):
    code = (
        "import os, signal, sys, threading; from pathlib import Path; from mdjax import files, processes\n"
        "signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
        "def fork():\n"
        f"    with files.temporary_file(Path({str(tmp_path)!r})) as file:\n"
        "        if not (child := os.fork()):\n"
        "            files.remove_unfinished()\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "            os._exit(7)\n"
        "        print(os.waitpid(child, 0)[1], file.exists())\n"
        "def command():\n"
        + ("    thread = threading.Thread(target=fork); thread.start(); thread.join()\n" if thread else "    fork()\n")
        + "processes.run('mdjax', command, own_process=True)"
    )
    process = child(code, stdout=subprocess.PIPE)
    assert process.communicate(timeout=60)[0] == f"{int(signal.SIGTERM)} True\n"
    assert process.returncode == 0


# Spreadsheets.


def test_text_in_csv_is_no_formula_and_comes_back_as_it_was(table, tmp_path):
    frame = read_configurations(table)
    frame["hessian_e"] = -frame["hessian_e"]
    names = ["=1+1", "+a", "-b", "@c", "\tq", "\rz", "\n=x", "'=x", "''-y", "'plain", "＝z", 'a"b,c']
    frame["configuration"] = names
    frame.to_parquet(table)
    cli.main(["diagnose", str(table), "--out", str(tmp_path / "verdicts.csv")])
    raw = pd.read_csv(tmp_path / "verdicts.csv", dtype=str)
    texts = raw.select_dtypes(include=["object", "string"])
    cells = [cell for name in texts for cell in texts[name].dropna() if not cell.lstrip("-").replace(".", "").isdigit()]
    assert not [cell for cell in cells if cell[0] in "=+-@\t\r\n＝"]
    assert read_configurations(tmp_path / "verdicts.csv")["configuration"].tolist() == names
