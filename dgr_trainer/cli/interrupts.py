"""Ends a command by Ctrl-C wherever it comes, even where Python loses it."""

from __future__ import annotations

import _thread
import signal
import sys
import threading

_SECONDS_UNTIL_AGAIN = 0.05


class LostInterrupts:
    """Raises an interrupt again that came where Python can raise nothing.

    In a destructor, or where a library in C calls back, as LLVM does while kernels are compiled, `KeyboardInterrupt`
    is only written to standard error, and the program goes on. While this hook is in place, such an interrupt comes
    again until the command ends. What else cannot be raised after an interrupt, as by destructors of what is half
    made, is not told.
    """

    def __init__(self) -> None:
        self.came = self._ends = False
        self._before = sys.unraisablehook
        self._timer: threading.Timer | None = None
        sys.unraisablehook = self._told

    def is_why(self, error: BaseException) -> bool:
        """Whether an error is only what an interrupt has led to."""
        chain: BaseException | None = error
        while chain is not None and not isinstance(chain, KeyboardInterrupt):
            chain = chain.__cause__ or chain.__context__
        return self.came or chain is not None

    def handled(self) -> None:
        """The command ends because of an interrupt: none has to come again."""
        self.came = self._ends = True
        if self._timer is not None:
            self._timer.cancel()

    def remove(self) -> None:
        """Tell again whatever cannot be raised, as before."""
        if self._timer is not None:
            self._timer.cancel()
        sys.unraisablehook = self._before

    def _told(self, unraisable: sys.UnraisableHookArgs, /) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt) and not self._ends:
            self.came = True
            if self._timer is not None:
                self._timer.cancel()  # One comes again for all that were lost.
            # In a moment: at once, it would come here, where it would be lost again.
            self._timer = threading.Timer(_SECONDS_UNTIL_AGAIN, _interrupt_main_thread)
            self._timer.daemon = True
            self._timer.start()
        elif not self.came:
            self._before(unraisable)


def _interrupt_main_thread() -> None:
    if hasattr(signal, "pthread_kill"):  # A signal also ends a wait, as for another process.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()
