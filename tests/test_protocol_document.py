"""docs/protocol.md is normative: its conversations run as tests, and its words are in the code.

A block that opens with ```session PORT is a conversation on that port. `C:` is a line that the
client sends, and `S:` one that the server answers. `*` stands for any value, and `(close)` for the
server's close. Each conversation has its own server with one host: desk1, on host-server's own
machine, with 2 slots. After `session PORT key` the farm has a key. Then `*` for the client's proof
stands for the right proof, computed here as the page says.
"""

from __future__ import annotations

import hmac
import re
from pathlib import Path

import pytest
from farm_processes import LOADS, REQUESTS, STATUS, HostServer

from compilefarm.protocol.wire import LINE_LIMIT_BYTES, WORD_LIMIT, format_line, parse_line

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "protocol.md").read_text()
PROOF_PORTS = {"load": "reports", "status": "status"}
PORTS = {"request": REQUESTS, "load": LOADS, "status": STATUS}
SESSIONS = re.findall(r"^```session (\w+)( key)?\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
SOURCES = "".join(
    path.read_text()
    for directory in ("compilefarm", "gethost")
    for path in (ROOT / "src" / directory).rglob("*.[pc]*")
    if path.suffix in (".py", ".c")
)
# The first column of the tables: `verb` or `verb key=X key=Y`, and lists of `key`s.
FIRST_COLUMN = re.findall(r"^\| (`[a-z].*?) \|", DOCUMENT, re.MULTILINE)
CODE = [code for cell in FIRST_COLUMN for code in re.findall(r"`([^`]+)`", cell)]
VERBS = {code.split()[0] for code in CODE if not code.startswith("own")}
KEYS = set(re.findall(r"\b([a-z][a-z0-9_]*)=[A-Z]", DOCUMENT))


KEY = "the-key-of-this-farm"


@pytest.fixture
def options(tmp_path: Path) -> list[object]:
    hosts_info = tmp_path / "hosts-info"
    hosts_info.write_text("desk1 2 1 address=127.0.0.1 static\n")
    return ["--hosts-info", hosts_info]


def with_proof(line: str, port: str, server_nonce: str) -> str:
    """Return the line with the client's proof in place of `proof=*`, if it has that."""
    if "proof=*" not in line:
        return line
    nonce = parse_line(line.encode()).text("nonce")
    text = f"compilefarm client {PROOF_PORTS.get(port)} {server_nonce} {nonce}"
    proof = hmac.new(KEY.encode(), text.encode(), "sha256").hexdigest()
    return line.replace("proof=*", f"proof={proof}")


def matches(line: str, pattern: str) -> bool:
    """Whether a line is as documented, with `*` for any value."""
    said, expected = parse_line(line.encode()), parse_line(pattern.encode())
    return (said.verb, said.words.keys()) == (expected.verb, expected.words.keys()) and all(
        value in ("*", said.words[key]) for key, value in expected.words.items()
    )


def test_the_document_has_conversations_on_every_port() -> None:
    assert {port for port, _, _ in SESSIONS} == set(PORTS)
    assert len(SESSIONS) == DOCUMENT.count("```session")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("port", "key", "lines"),
    SESSIONS,
    ids=[f"{n}-{port}" for n, (port, _, _) in enumerate(SESSIONS)],
)
def test_a_conversation_is_as_documented(
    tmp_path: Path, options: list[object], port: str, key: str, lines: str
) -> None:
    nonce = ""
    if key:
        path = tmp_path / "key"
        path.touch(mode=0o600)
        path.write_text(KEY + "\n")
        options += ["--key-file", path]
    with HostServer(tmp_path, *options) as server, server.connect(PORTS[port]) as client:
        for line in lines.splitlines():
            speaker, _, text = line.partition(": ")
            if speaker == "C":
                client.say(with_proof(text, port, nonce))
            elif text == "(close)":
                assert client.line() == ""
            else:
                assert speaker == "S", line
                said = client.line()
                while said.startswith("wait "):  # it may come before any answer to a request
                    said = client.line()
                assert matches(said, text), f"{said!r} is not {text!r}"
                nonce = parse_line(said.encode()).text("nonce") or nonce


@pytest.mark.parametrize("word", sorted(VERBS | KEYS))
def test_every_verb_and_key_is_in_the_code(word: str) -> None:
    """Each is a string of its own there, or the name of an argument of `send`."""
    assert re.search(rf'"{word}"|\b{word}=|"{word} ', SOURCES), word


def test_the_document_has_the_numbers_of_the_code() -> None:
    assert f"at most {LINE_LIMIT_BYTES} bytes" in DOCUMENT
    assert f"At most {WORD_LIMIT} words" in DOCUMENT


def test_the_document_is_parsed() -> None:
    assert {"request", "lease", "failed", "load", "drain", "networks"} <= VERBS
    assert {"grace_s", "power_index", "wall_s"} <= KEYS
    assert matches(format_line("lease", id=4, host="desk1")[:-1].decode(), "lease id=* host=desk1")
    assert not matches("lease id=4 host=desk2", "lease id=* host=desk1")
    assert not matches("lease id=4 host=desk1 port=1", "lease id=* host=desk1")
