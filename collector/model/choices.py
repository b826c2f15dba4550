"""What to say of a name that is not one of those known: the same wherever a user writes one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MOST_LISTED = 40
# How much less alike than the best match another one may be to be named beside it.
_AS_GOOD = 0.1


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'this' or 'that'?`` if known names look like it, else nothing.

    Neither case nor the dashes before an option matter.
    """
    folded = {_folded(one): str(one) for one in known}
    matcher = difflib.SequenceMatcher()
    matcher.set_seq2(_folded(name))
    likeness = {}
    for one in difflib.get_close_matches(_folded(name), folded, n=2):
        matcher.set_seq1(one)
        likeness[folded[one]] = matcher.ratio()
    like = [repr(one) for one, how in likeness.items() if how > max(likeness.values()) - _AS_GOOD]
    return f"; did you mean {' or '.join(like)}?" if like else ""


def _folded(name: str) -> str:
    return name.casefold().lstrip("-")


def unknown(name: str, known: Iterable[str]) -> str:
    """The known names that look like it; if none does, all, as far as they fit in a line."""
    names = list(known)
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return did_you_mean(name, names) or f"; known are {', '.join(names[:_MOST_LISTED])}{more}"
