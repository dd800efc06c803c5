"""The rule that every input is held to, and how hard it is tried.

What can be used is used. What cannot is named, with what to do, in one line; nothing waits without
end. `make test` tries the same inputs each time; `make fuzz`, which sets FUZZ, new ones.
"""

import os
import signal
from contextlib import contextmanager
from unicodedata import category

from hypothesis import HealthCheck, settings

from adafocus.data import DataError
from adafocus.data.names import one_line
from adafocus.machine.files import WriteError
from adafocus.recipe import RecipeError

BY_HAND = bool(os.environ.get("FUZZ"))
SECONDS = 300
"""In which any small input has been used or refused, on a busy machine too."""
LONGEST = 2100
"""Letters that a line for a person has at most."""


def tried(times):
    """Settings of a property that is tried so many times, by hand three times as many."""
    return settings(
        max_examples=3 * times if BY_HAND else times,
        derandomize=not BY_HAND,
        # A busy machine must not fail a test; what waits without end is ended by `in_time`.
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def in_time():
    """Ends the block where it waits."""

    def end(*_):
        raise AssertionError(f"waited for {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def used(read, *named):
    """What ``read`` returns, or None where it refuses in one line that has one of ``named``."""
    with in_time():
        try:
            return read()
        except (DataError, RecipeError, WriteError) as error:
            check_line(one_line(str(error)), *named)


def check_line(line, *named):
    """Fails unless a person can read the line in a terminal, and it has one of ``named``."""
    bad = [letter for letter in line if category(letter) in ("Cc", "Cs", "Zl", "Zp")]
    assert not bad, f"not one line of text: {line!r}"
    assert not named or any(name in line for name in named), f"names none of {named}: {line}"
    assert len(line) < LONGEST, f"is long: {line[:LONGEST]} ..."
