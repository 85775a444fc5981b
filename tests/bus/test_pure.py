"""Messages as bytes, subjects, and the credentials of NATS."""

import base64
import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.errors import AgentError, ConfigError, ProtocolError
from obt_server.bus import frames, nats_credentials
from obt_server.bus.bus import matches
from obt_server.bus.frames import ErrorTypes, Kind, Sign, Whole
from obt_server.config.bus_address import bus_addresses, bus_problem

token = st.binary(min_size=16, max_size=16)
number = st.integers(0, 2**32 - 1)
large = st.integers(0, 2**64 - 1)


@given(st.sampled_from(Kind), token, token, number, st.binary(), st.binary())
def test_a_message_is_read_as_it_was_written(
    kind: Kind, one: bytes, server: bytes, seq: int, head: bytes, rest: bytes
) -> None:
    read = frames.unpack(frames.pack(kind, one, rest, server=server, seq=seq, head=head))
    assert (read.kind, read.token, read.server, read.seq, bytes(read.rest)) == (
        *(kind, one, server, seq, head + rest),
    )


@given(st.lists(st.binary()), large, large, st.lists(st.builds(Sign, token, number, large)))
def test_parts_are_read_as_they_were_written(
    texts: list[bytes], one: int, two: int, alive: list[Sign]
) -> None:
    assert frames.read_items(memoryview(frames.items(texts))) == texts
    credit, total, piece = frames.read_open(memoryview(frames.open_head(one, two) + b"piece"))
    assert (credit, total, bytes(piece)) == (one, two, b"piece")
    assert frames.read_total(memoryview(frames.total(one))) == one
    whole, size, piece = frames.read_part(memoryview(frames.part_head(Whole.FINAL, one) + b"piece"))
    assert (whole, size, bytes(piece)) == (Whole.FINAL, one, b"piece")
    for max_payload in (1 << 20, frames.OVERHEAD_BYTES + 100):
        lists = list(frames.sign_lists(alive, max_payload))
        assert [sign for some in lists for sign in frames.read_signs(memoryview(some))] == alive
        assert all(len(some) + frames.OVERHEAD_BYTES <= max_payload for some in lists)


@given(st.binary(max_size=200))
def test_anything_else_is_a_protocol_error_at_most(data: bytes) -> None:
    rest = memoryview(data)
    types = ErrorTypes()
    reads: tuple[Callable[[memoryview], object], ...] = (
        *(
            lambda rest: frames.unpack(bytes(rest)),
            frames.read_items,
            frames.read_open,
            frames.read_total,
            frames.read_part,
        ),
        *(lambda rest: list(frames.read_signs(rest)), types.decode),
    )
    for read in reads:
        with contextlib.suppress(ProtocolError):
            read(rest)
    assert frames.unpacked(data) is None or data[0] in set(Kind)


def test_an_error_that_would_end_a_process_is_none_elsewhere() -> None:
    types = ErrorTypes()
    back = types.decode(memoryview(types.encode(ConfigError("wrong"))))
    assert (type(back), back.message) == (AgentError, "wrong")


@pytest.mark.parametrize(
    ("pattern", "subject", "covered"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.b", "a.b.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.*.c", "a.b.c", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
    ],
)
def test_subjects_are_covered_as_nats_does_it(pattern: str, subject: str, covered: bool) -> None:
    assert matches(pattern, subject) is covered


def private(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o600)
    return path


def test_credentials_are_a_user_a_token_or_a_file_of_nats(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    read = nats_credentials.from_file(private(file, "# ours\n\nann:with:colon \n"))
    assert (read.user, read.password, read.token) == ("ann", "with:colon", None)
    assert "colon" not in repr(read)
    assert nats_credentials.from_file(private(file, "t0ken\n")).token == "t0ken"
    key = Ed25519PrivateKey.generate()
    raw = bytes([18 << 3, 20 << 3]) + key.private_bytes_raw() + b"cr"
    seed = base64.b32encode(raw).decode().rstrip("=")
    text = (
        "-----BEGIN NATS USER JWT-----\nhead.body.sign\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    read = nats_credentials.from_file(private(file, text))
    assert read.jwt is not None
    assert read.sign is not None
    assert read.jwt() == b"head.body.sign"
    key.public_key().verify(base64.b64decode(read.sign("nonce")), b"nonce")


def test_a_file_of_credentials_that_cannot_be_used_is_refused_with_a_word(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    block = "-----BEGIN NATS USER JWT-----\nhead.body.sign\n------END NATS USER JWT------\n"
    for content, word in (
        ("", "one line"),
        ("a:b\nc:d\n", "one line"),
        (b"\xff\xfe", "UTF-8"),
        (block, "seed"),
        (f"{block}-----BEGIN USER NKEY SEED-----\nSU1\n------END USER NKEY SEED------\n", "seed"),
    ):
        with pytest.raises(ConfigError, match=word):
            nats_credentials.from_file(private(file, content))
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod"):
        nats_credentials.from_file(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        nats_credentials.from_file(tmp_path / "none")


def test_addresses_get_their_port() -> None:
    assert bus_addresses("") == ()
    assert bus_addresses("nats://a, tls://b:1,nats://[::1]:5") == (
        *("nats://a:4222", "tls://b:1", "nats://[::1]:5"),
    )


@pytest.mark.parametrize(
    "text",
    [
        *("localhost:4222", "http://a:1", "nats://", "nats://a:x", "nats://a:0", "nats://a/b", "nats://a?b"),
        *("nats://ann:secret@a", "nats://t0ken@a:4222", "nats://a,nats://ann:secret@b", "tls://a#b"),
    ],
)
def test_an_address_that_cannot_be_used_says_what_to_write_and_no_secret(text: str) -> None:
    problem = bus_problem(text)
    assert problem is not None
    assert "nats://HOST" in problem or "bus.credentials_file" in problem
    assert "secret" not in problem
    assert "t0ken" not in problem
    assert bus_problem("nats://a:4222,tls://b") is None
