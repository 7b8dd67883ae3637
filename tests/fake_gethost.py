"""A gethost for tests that identifies fake compilers by their contents.

A fake compiler is a file that begins with the word `compiler`; two with the same contents have the
same id. One that begins with `hang` hangs. Anything else is no compiler.
"""

import hashlib
import sys
import time
from pathlib import Path
from urllib.parse import quote


def kind(name: str) -> str:
    """Return the canonical name for a file's name."""
    language = "++" if "++" in name else ""
    return f"clang{language}" if "clang" in name else f"g{language or 'cc'}"


def answer(path: str) -> list[str]:
    """Return the fields for one path."""
    contents = Path(path).read_bytes() if Path(path).is_file() else b""
    if contents.startswith(b"hang"):
        time.sleep(3600)
    if not contents.startswith(b"compiler"):
        return ["-", "-", "-", "-", path, f"{path} is no compiler"]
    version = contents.split()[1].decode()
    name = kind(Path(path).name)
    digest = hashlib.sha256(name.encode() + contents).hexdigest()
    return [digest[:15] + "a", name, version, "fake-linux", path, f"{name} {version} (fake-linux)"]


if sys.argv[1:2] != ["--compiler-ids"]:
    sys.exit("gethost: only --compiler-ids is known here")
for each in sys.argv[2:]:
    print("\t".join(quote(field, safe="/+") for field in answer(each)), flush=True)
