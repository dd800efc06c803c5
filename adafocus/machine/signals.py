"""Signals that ask a process to end soon: SIGTERM, SIGINT, and Slurm's warning, SIGUSR1."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any, Self

WARNINGS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Stopped(SystemExit):
    """A signal ended the program; its exit status is 128 and the signal's number.

    Attributes:
        message: one line of what was saved.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(128 + number)
        self.message = message


class Stop:
    """Keeps in mind that a signal came while the block goes on, which ends where it suits.

    Outside the main thread, where Python lets nobody handle signals, it leaves them alone.

    Attributes:
        number: of the signal that came, or 0.
    """

    number = 0

    def __enter__(self) -> Self:
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in WARNINGS:
                self._before[number] = signal.signal(number, self._came)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _came(self, number: int, _: FrameType | None) -> None:
        self.number = number


def leave_to_parent(_: int = 0) -> None:
    """Lets only the parent end this process, which loads clips for it.

    A scheduler signals all processes of a job, and a terminal all of a command; what the parent
    does then may yet need its clips.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
