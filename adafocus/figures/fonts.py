"""Names in any script: those of the machine's fonts that have their letters.

None is shipped. matplotlib's own font, DejaVu Sans, draws Latin, Greek, Cyrillic and Arabic; for
other letters an installed font stands in.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from unicodedata import category

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, findSystemFonts, fontManager, get_font
from matplotlib.text import Text

POWER = re.compile(r"\$\\mathdefault\{[^$]*\}\$")
"""What matplotlib itself writes in formulas: numbers along an axis."""
OWN = "DejaVu Sans"
MOST_TOLD = 10
"""So many letters that cannot be drawn are told."""


@contextmanager
def legible(figure: Figure) -> Iterator[None]:
    """Within the block a figure's texts are drawn as they are written, whatever their letters.

    No dollar begins a formula. A line tells of letters that no installed font has.
    """
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_ticklabels()  # which are written only when they are asked for
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    for text in texts:
        text.set_parse_math(POWER.fullmatch(text.get_text()) is not None)
    if others := _stand_ins(_unknown("".join(text.get_text() for text in texts))):
        for font in others:
            fontManager.addfont(font)
        names = [FontProperties(fname=font).get_name() for font in others]
        for text in texts:
            text.set_fontfamily([*text.get_fontfamily(), *names])
    with warnings.catch_warnings():
        # A line for each letter and each time that it is drawn.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def font_for(text: str) -> str:
    """The file of the font that has most letters of a text."""
    fonts = [findfont(OWN), *_stand_ins(_unknown(text))]
    return max(fonts, key=lambda font: len(_letters(font).intersection(map(ord, text))))


def _unknown(text: str) -> frozenset[str]:
    """Letters that matplotlib's own font lacks."""
    known = _letters(findfont(OWN))
    seen = {letter for letter in text if category(letter)[0] not in "CZ"}
    return frozenset(letter for letter in seen if ord(letter) not in known)


@cache
def _stand_ins(letters: frozenset[str]) -> list[str]:
    """The fewest installed fonts that have these letters, as far as there are any."""
    found = []
    left = {ord(letter) for letter in letters}
    for font in sorted(findSystemFonts(), key=_fitness) if left else ():
        if has := left & _letters(font):
            found.append(font)
            left -= has
        if not left:
            break
    if left:
        few, more = sorted(map(chr, left))[:MOST_TOLD], len(left) - MOST_TOLD
        print(
            f"no installed font has {' '.join(few)}{f' and {more} more' if more > 0 else ''}:"
            " figures show boxes instead; install one that has, on Debian: apt-get install"
            " fonts-noto",
            flush=True,
        )
    return found


def _fitness(font: str) -> tuple[bool, bool, str]:
    """Sorts upright fonts without serifs first."""
    name = font.lower()
    slanted = any(word in name for word in ("bold", "italic", "oblique", "light", "black"))
    return "sans" not in name, slanted, font


@cache
def _letters(font: str) -> frozenset[int]:
    """Code points that a font draws, none where it cannot be drawn at any size."""
    try:
        opened = get_font(font)
        return frozenset(opened.get_charmap() if opened.scalable else ())
    except (OSError, RuntimeError, ValueError):  # a broken file
        return frozenset()
