"""Workers that die: killed as soon as they have been told something, or by code that every one of them runs."""

import os
import signal

from mdjax import pools


def killing_the_first(monkeypatch) -> list[int]:
    """From now on the first worker that is told a task is killed; its number is in the list then."""
    killed: list[int] = []
    tell = pools.Subprocess.tell

    def told(process, message):
        tell(process, message)
        if "task" in message and not killed:
            killed.append(process.pid)
            os.kill(process.pid, signal.SIGKILL)

    monkeypatch.setattr(pools.Subprocess, "tell", told)
    return killed


def run_in_children(code, folder, monkeypatch) -> None:
    """Have every Python process that is started from now on run some code first."""
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
