"""A distccd for tests: it takes the same options, listens, and compiles nothing.

`FAKE_DISTCCD` in the environment lets it fail: it `dies`, is `mute` (never listens) or `deaf`
(ignores SIGTERM). Like distccd, it starts workers; here there are two.
"""

import os
import signal
import socket
import sys
import time


def option(name: str, default: str) -> str:
    """Return an option's value on the command line."""
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


fault = os.environ.get("FAKE_DISTCCD", "")
if fault == "dies":
    sys.exit("distccd[1] (dcc_main) ERROR: it was told to die")
if fault == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if fault != "mute":
    listener.bind((option("--listen", ""), int(option("--port", "3632"))))
    listener.listen()
for _ in range(2):
    if os.fork() == 0:
        break
while True:
    time.sleep(3600)
