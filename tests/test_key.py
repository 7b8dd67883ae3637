"""The farm's key: which files hold one, and what a proof proves."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

import pytest

from compilefarm.programs.key_file import KeyFileError, read_keys
from compilefarm.protocol.key import key_proven, proof, proves

KEY, OTHER = b"correct-horse-battery", b"staple-staple-staple"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    return path


def test_each_line_is_a_key(path: Path) -> None:
    path.write_bytes(b"\n" + KEY + b"\r\n\n  " + OTHER + b"  ")
    assert read_keys(path) == (KEY, OTHER)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds no key"),
        ("\n\n", "holds no key"),
        ("too-short", "line 1: a key has at least 16"),
        (f"{KEY.decode()}\n# the old one, now gone", "line 2: .* does not begin with #"),
        ("#correct-horse-battery", "line 1"),
        ("correct horse battery staple", "no spaces"),
        ("correct-h\u00f6rse-battery", "line 1"),
    ],
)
def test_a_line_that_is_not_a_key_is_named(path: Path, text: str, why: str) -> None:
    path.write_text(text)
    with pytest.raises(KeyFileError, match=why) as raised:
        read_keys(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_file_that_others_can_open_is_refused(path: Path, mode: int) -> None:
    path.write_bytes(KEY)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"open to others: chmod 600 {path}"):
        read_keys(path)


def test_a_path_that_is_not_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"cannot read key file .*: no such file"):
        read_keys(tmp_path / "missing")
    with pytest.raises(KeyFileError, match="is a directory"):
        read_keys(tmp_path)
    os.mkfifo(tmp_path / "fifo", mode=0o600)
    with pytest.raises(KeyFileError, match="is not a file"):
        read_keys(tmp_path / "fifo")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_file_is_refused(path: Path) -> None:
    path.write_bytes(KEY)
    os.chown(path, 12345, -1)
    with pytest.raises(KeyFileError, match="belongs to another user"):
        read_keys(path)


def test_a_proof_is_made_as_documented() -> None:
    text = b"compilefarm client status SERVERS-NONCE CLIENTS-NONCE"
    expected = hmac.new(KEY, text, hashlib.sha256).hexdigest()
    assert proof(KEY, "client", "status", "SERVERS-NONCE", "CLIENTS-NONCE") == expected


def test_a_proof_holds_only_for_its_key_side_port_and_nonces() -> None:
    given = proof(KEY, "client", "status", "S" * 16, "C" * 16)
    assert key_proven([OTHER, KEY], given, "status", "S" * 16, "C" * 16) == KEY
    assert key_proven([OTHER], given, "status", "S" * 16, "C" * 16) is None
    assert key_proven([KEY], given, "reports", "S" * 16, "C" * 16) is None
    assert key_proven([KEY], given, "status", "T" * 16, "C" * 16) is None
    assert key_proven([KEY], given, "status", "S" * 16, "D" * 16) is None
    assert key_proven([], given, "status", "S" * 16, "C" * 16) is None
    servers = proof(KEY, "server", "status", "S" * 16, "C" * 16)
    assert key_proven([KEY], servers, "status", "S" * 16, "C" * 16) is None, "sent back to it"


@pytest.mark.parametrize("given", ["", "0" * 64, "h\u00f6rse"])
def test_no_text_breaks_the_comparison(given: str) -> None:
    assert not proves(given, proof(KEY, "client", "status", "S", "C"))
