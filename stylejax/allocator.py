"""The memory that the C library holds for a process."""

import ctypes
import sys


def give_back() -> None:
    """Gives memory that was freed back to the system, where the C library can; glibc's can.

    Compiling a program allocates hundreds of megabytes in small pieces and frees them, and glibc
    keeps such pieces for itself: of a run with five scales two gigabytes (docs/performance.md).
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
