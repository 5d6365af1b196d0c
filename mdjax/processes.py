"""A command and the process that it runs in: exit statuses, interrupts at any moment, pipes that close.

An interrupt ends the process where it stands. To raise KeyboardInterrupt instead would be to raise it wherever the
program happens to be: callbacks of JAX and of the garbage collector swallow it, native code that is being imported
aborts, and while a long program is compiled nothing happens at all. Whatever mdjax writes is written in one step, so
that nothing is lost.
"""

import atexit
import contextlib
import importlib.util
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from mdjax.console import ERRORS, OutputError, complain, silence, warn
from mdjax.errors import InputError

_STATUSES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
"""Signals that end a command, with its exit status: 128 and the signal's number, as shells tell it."""

_CLOSED = 141
"""The exit status where nobody reads on: that of programs which SIGPIPE ends."""

_GO_ON = "give the same command again to go on from here"

_DEVICES, _PCI, _GOOGLE = Path("/dev"), Path("/sys/bus/pci/devices"), "0x1ae0"
"""Where Linux shows devices and tells their makers, and the number of the one that makes TPUs."""

_ending = threading.Event()

_PATIENCE = 3.0
"""Seconds that a duty may take when a signal ends the process."""

_duties: list[Callable[[], None]] = []


def run(prog: str, command: Callable[[], None], *, own_process: bool) -> None:
    """Run a command; what goes wrong is one sentence on standard error, and an exit status.

        prog: what the command is called.
        command: does all of it.
        own_process: the process is the command's: signals end it, warnings are lines of its own, and its standard
            streams are settled at the end.

    Raises SystemExit: 2 for an InputError or a standard output that is full, 130 for an interrupt, 141 where the reader
    of standard output has gone.
    """
    try:
        if own_process:
            _open_missing_streams()
            _leave_out_absent_tpus()
            # Those of libraries may quote a file, too, and are shown like all else that is said.
            warnings.showwarning = lambda message, *_, **__: warn(str(message))
            atexit.register(end_by_signals(lambda number: _end(prog, number)))
        _run(prog, command)
    finally:
        if own_process:
            if _ending.is_set():
                threading.Event().wait()  # for the thread that ends the process
            _settle()


def _leave_out_absent_tpus() -> None:
    """Where libtpu is installed as a compiler and there is no TPU, let JAX look for none.

    It would load libtpu for every command, which takes 0.1 GiB and says on standard error what it does not find.
    """
    told = {"JAX_PLATFORMS", "JAX_FORCE_TPU_INIT"} & os.environ.keys()
    # Another plugin of JAX may serve devices that are here.
    if told or importlib.util.find_spec("libtpu") is None or importlib.util.find_spec("jax_plugins") is not None:
        return
    devices = [*_DEVICES.glob("accel*"), *_DEVICES.glob("vfio/[0-9]*")]
    with contextlib.suppress(OSError):
        devices += [path for path in _PCI.glob("*/vendor") if path.read_text().strip() == _GOOGLE]
    if not devices:
        os.environ["JAX_PLATFORMS"] = "cpu"


def _run(prog: str, command: Callable[[], None]) -> None:
    try:
        command()
    except InputError as error:
        complain(f"{prog}: error: {error}")
        sys.exit(2)
    except OutputError as error:
        if error.closed:
            sys.exit(_CLOSED)
        complain(f"{prog}: error: Cannot write to standard output: {error}. Send it elsewhere.")
        sys.exit(2)
    except KeyboardInterrupt:
        complain(f"{prog}: interrupted; {_GO_ON}")
        sys.exit(_STATUSES["SIGINT"])


def end_by_signals(end: Callable[[int], None]) -> Callable[[], None]:
    """Call `end` with the number of the first signal that asks this process to end, from a thread of its own.

    Also while the main thread is in native code that lets others run. Signals that are ignored, or are another's,
    stay so; nothing happens outside of the main thread, or where a system has no signals of this kind. Returns what
    gives the signals back to the system; a child that is forked gives them back at once.
    """
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        return lambda: None
    numbers = {getattr(signal, name) for name in _STATUSES}
    ours = {number for number in numbers if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)}
    if not ours:
        return lambda: None
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def wait() -> None:
        while not (given := os.read(reading, 1)) or given[0] not in ours:
            continue
        end(given[0])

    def handle(number: int, frame: object) -> None:
        with contextlib.suppress(OSError):
            os.write(writing, bytes([number]))  # should another have taken the descriptor that is written to at once

    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in ours:
        signal.signal(number, handle)
    threading.Thread(target=wait, name="signals", daemon=True).start()

    def give_back() -> None:
        held = [number for number in ours if signal.getsignal(number) is handle]
        for number in held:
            signal.signal(number, signal.SIG_DFL)
        if held:
            signal.set_wakeup_fd(-1)

    os.register_at_fork(after_in_child=give_back)  # the pipe is the parent's, which a child's signals would end
    return give_back


@contextlib.contextmanager
def when_ended(duty: Callable[[], None]) -> Iterator[None]:
    """Have a duty done, from another thread and within seconds, should a signal end the process in this block.

    Of several the last comes first.
    """
    _duties.append(duty)
    try:
        yield
    finally:
        _duties.remove(duty)


def _end(prog: str, number: int) -> None:
    """Clear up, say so and end the process, whatever its other threads do."""
    name = signal.Signals(number).name
    try:
        _ending.set()
        is_terminal = ERRORS.isatty()
        silence()  # what the main thread says of being ended
        what = "interrupted" if name == "SIGINT" else f"stopped by {name}"
        before = "\x1b[?25h\n" if is_terminal else ""  # a bar has hidden the cursor
        # Past Python's own buffers, which another thread may hold; and a pipe that nobody reads is not waited for.
        with contextlib.suppress(OSError):  # its reader, or the terminal, is gone
            if select.select([], [2], [], 1)[1]:
                os.write(2, f"{before}{prog}: {what}; {_GO_ON}\n".encode())
        if (files := sys.modules.get("mdjax.files")) is not None:  # else nothing was begun
            files.remove_unfinished()
        for duty in reversed(_duties):
            thread = threading.Thread(target=duty, daemon=True)
            thread.start()
            thread.join(_PATIENCE)
    finally:
        os._exit(_STATUSES[name])


def _open_missing_streams() -> None:
    """Open standard streams that the process was started without: the next file would get their numbers, and with them
    whatever native code says."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _settle() -> None:
    """Let the interpreter find nothing to write that cannot be written, of which it would complain."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
