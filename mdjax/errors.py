"""The one exception a user can mend: its message is a whole sentence."""


class InputError(ValueError):
    """Bad input, told in one sentence: the value met, what was expected, and the remedy.

    The command line prints the message alone and exits with status 2; Python callers catch it as a ValueError.
    """
