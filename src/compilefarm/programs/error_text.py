"""The reason inside an operating system error, as part of one of our own error lines."""

from __future__ import annotations


def error_text(error: OSError | UnicodeError) -> str:
    """Return why an operation failed, in lower case, for a line such as `FILE: no such file`.

    A `UnicodeError` comes from a name that the resolver cannot encode.
    """
    if isinstance(error, UnicodeError):
        return "not a host name"
    return (error.strerror or str(error) or "no answer").lower()
