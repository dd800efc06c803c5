"""Resume files: all that a training run needs to go on as if nothing had happened."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch

from adafocus.machine.distributed import is_first, say
from adafocus.machine.files import atomic


class ResumeFile:
    """The latest state of a run, and beside it the one before, for when the latest is damaged.

    A file is the ZIP archive that `torch.save` writes, with a CRC-32 of each tensor, which
    `torch.load` itself does not look at.

    Args:
        path: of the latest state, ``*.pt``.
        fingerprints: those of states that belong to this run; the first is written.
        made_by: what states say of the code and the run that made them. Where it holds ``anew``,
            those that do not say the same are removed.
    """

    def __init__(
        self, path: Path, fingerprints: Sequence[str], made_by: Mapping[str, Any] | None = None
    ) -> None:
        self.path, self.fingerprints, self.made_by = path, fingerprints, dict(made_by or {})
        self.previous = previous_state(path)

    def write(self, state: Mapping[str, Any]) -> None:
        """Raises `WriteError` where the disk is full; the state before is then still there."""
        with atomic(self.path) as aside:
            facts = {"fingerprint": self.fingerprints[0], "made_by": self.made_by}
            torch.save({**facts, **state}, aside)
            if self.path.exists():
                self.previous.unlink(missing_ok=True)
                try:
                    os.link(self.path, self.previous)
                except OSError:  # a file system without links
                    self.path.replace(self.previous)

    def make_own(self, state: dict[str, Any]) -> None:
        """Writes a state that is gone on from, and that an earlier version knew by another
        fingerprint, under the present one: the run's record will not tell of the other any more."""
        if state["fingerprint"] != self.fingerprints[0] and is_first():
            state["fingerprint"] = self.fingerprints[0]
            with atomic(self.path) as aside:
                torch.save(state, aside)

    def read(self, trial: Path | None = None) -> dict[str, Any] | None:
        """The latest state of this run that is undamaged, on the CPU, or None.

        Where there are states, but none of this run, that of ``trial`` is taken over, if it is.
        """
        found = [path for path in (self.path, self.previous) if path.exists()]
        for path in found:
            try:
                state = _read(path)
            except Exception as error:  # there is no telling what a damaged file leads to
                reason = str(error).partition("\n")[0]
                say(f"{path} is damaged on disk ({reason})")
                continue
            if not self._is_as_new(state):
                anew = self.made_by["anew"]
                say(f"{path} is not of {anew!r}, what is trained anew: removed")
                self.path.unlink(missing_ok=True)
                self.previous.unlink(missing_ok=True)
                break
            if state["fingerprint"] in self.fingerprints:
                self._go_on(state, path)
                if path != self.path:
                    path.replace(self.path)
                return state
            say(f"{path} is of another run (recipe, data, seed, precision or checkpoints changed)")
            break
        if found and trial and (taken := self.take_over(trial)):
            return taken
        if found:
            say("starting over")
        return None

    def take_over(self, path: Path) -> dict[str, Any] | None:
        """The state of another file, where it is of this run too, as this file's own, or None."""
        try:
            state = _read(path)
        except Exception:  # it is gone, or as in `read`
            return None
        if not self._is_as_new(state) or state["fingerprint"] not in self.fingerprints:
            return None
        self._go_on(state, path)
        if is_first():
            with atomic(self.path) as aside:
                shutil.copyfile(path, aside)
        return state

    def _is_as_new(self, state: Mapping[str, Any]) -> bool:
        """Whether a state was begun under the word that is asked for, if one is."""
        anew = self.made_by.get("anew")
        return anew is None or state.get("made_by", {}).get("anew") == anew

    def _go_on(self, state: Mapping[str, Any], path: Path) -> None:
        say(f"going on from {path}")
        if begun := state.get("made_by", {}).get("anew"):
            self.made_by["anew"] = begun


def previous_state(path: Path) -> Path:
    """Where the state before the one at ``path`` is, of use while a run is not done."""
    return path.with_suffix(f".previous{path.suffix}")


def _read(path: Path) -> dict[str, Any]:
    with ZipFile(path) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise BadZipFile(f"the checksum of {broken} is another")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
