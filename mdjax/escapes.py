"""Texts of unknown origin made safe to show: what a terminal, a browser or a reader's eye would obey is spelled out.

Names of files, ids of models and whatever else a file holds may carry escape sequences that retitle or clear a
terminal, carriage returns that overwrite a line, and marks that turn the direction of writing.
"""

import unicodedata

_OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of what is no text: controls, formats such as bidi overrides, surrogates, separators."""

_PLAIN = {
    "→": "->",
    "←": "<-",
    "↑": "up",
    "↓": "down",
    "±": "+-",
    "×": "x",
    "·": "*",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "━": "-",
    "╸": "-",
    "╺": "-",
}
"""How signs of our own are written where an encoding lacks them."""


def printable(text: str, *, lines: bool = False) -> str:
    r"""The text with its control characters as escapes: a name that holds ESC shows `\x1b`, and does nothing.

    With `lines` line feeds and tabs stay, for texts of several lines. What was made printable stays as it is.
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(
        sign if sign in kept or unicodedata.category(sign) not in _OBEYED else ascii(sign)[1:-1] for sign in text
    )


def encodable(text: str, encoding: str) -> str:
    """The text in signs that an encoding has: `→` becomes `->` in ASCII; what has no plain form becomes an escape."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(_encodable(sign, encoding) for sign in text)
    except LookupError:  # no encoding that Python knows
        return encodable(text, "ascii")
    return text


def _encodable(sign: str, encoding: str) -> str:
    for form in (sign, _PLAIN.get(sign), unicodedata.normalize("NFKD", sign), ascii(sign)[1:-1]):
        try:
            if form is not None:
                form.encode(encoding)
                return form
        except UnicodeEncodeError:
            continue
    return "?"
