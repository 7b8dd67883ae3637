"""What all programs have in common on the command line: a mistake there is one line.

What they print may find no room, or nobody who reads it (`… | head -1`); that is no reason for a
traceback either.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import NoReturn


class OneLineParser(argparse.ArgumentParser):
    """An option parser whose errors are one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        """End the program with status 2 and one line."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def print_result(program: str, text: str) -> int:
    """Print what a program has found; return its exit status, which is 0 where that went well.

    Who stops reading knows it: then nothing is said, and the status is that of SIGPIPE.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        # What is left in the buffer would be tried again, and complained of, at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 128 + signal.SIGPIPE
        print(f"{program}: cannot print the result: {error.strerror}", file=sys.stderr)
        return 1
    return 0
