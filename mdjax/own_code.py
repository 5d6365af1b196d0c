"""Python files of the user's own, which are run for a class that stands in them."""

import importlib.util
import sys
from types import ModuleType

from mdjax.errors import InputError, first_line
from mdjax.files import expanded


def run_file(file: str, what: str) -> ModuleType:
    """The module that a Python file makes. Its code is run, and finds the files beside it by their names.

    file: its path.
    what: is sought in it, as a user calls it: "a metric of your own".

    Raises InputError for a file that is not there, is no Python file, or raises while it runs.
    """
    path = expanded(file)
    if not path.is_file():
        raise InputError(f"There is no file {file}. Give {what} as FILE.py:CLASS.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{file} is no Python file. Give {what} as FILE.py:CLASS.")
    module = importlib.util.module_from_spec(spec)
    folder, other = str(path.absolute().parent), sys.modules.get(path.stem)
    sys.path.insert(0, folder)
    sys.modules[path.stem] = module  # where dataclasses look up annotations that are texts
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the file is the user's own: it can raise anything
        raise InputError(f"Cannot run {file}: {type(error).__name__}: {first_line(error)}. Mend it.") from None
    finally:
        sys.path.remove(folder)
        if other is None:
            del sys.modules[path.stem]
        else:
            sys.modules[path.stem] = other
    return module


def own_names(module: ModuleType, kind: type = object) -> list[str]:
    """The names of what a file itself defines, rather than imports; only classes below `kind` where that is given."""
    own = {name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    if kind is not object:
        own = {name: value for name, value in own.items() if isinstance(value, type) and issubclass(value, kind)}
    return list(own)
