"""What all programs do on the command line: print an error, or a result, and nothing else.

A mistake in the options is one line. Output that finds a full disk, or a reader that has gone
(`… | head -1`), does not end in a traceback either.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import NoReturn


class OneLineParser(argparse.ArgumentParser):
    """An option parser that prints an error as one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and one line."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def print_result(program: str, text: str) -> int:
    """Print a program's result, and return its exit status: 0 if it was printed.

    If the reader has gone, print nothing more and return the status of a program that SIGPIPE ends.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        # Otherwise Python would try to write the rest of the buffer again at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 128 + signal.SIGPIPE
        print(f"{program}: cannot print the result: {error.strerror}", file=sys.stderr)
        return 1
    return 0
