"""The pins of servers' keys: read from certificates of every kind, and from the texts of join tokens."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from obt_agent.protocol.server_key import pin_of, split_join_token, with_pins
from tests.link.authority import key_of

NOW = dt.datetime(2026, 1, 1)  # noqa: DTZ001 - X.509 has no zones
PIN = "sha256-" + "A" * 43
KEYS: dict[str, tuple[Callable[[], Any], Any]] = {
    "elliptic curve": (lambda: ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()),
    "ed25519": (ed25519.Ed25519PrivateKey.generate, None),
    "rsa": (lambda: rsa.generate_private_key(65537, 2048), hashes.SHA256()),
}


def certificate(kind: str, name: str = "obt") -> x509.Certificate:
    make, digest = KEYS[kind]
    key = make()
    names = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(names, names, key.public_key(), x509.random_serial_number(), NOW, NOW)
    return builder.sign(key, digest)


@pytest.mark.parametrize("kind", KEYS)
def test_a_certificates_key_is_hashed_as_it_stands_there(kind: str) -> None:
    # A long name, so that the elements before the key have lengths of more than one byte.
    made = certificate(kind, "obt" * 20)
    assert pin_of(made.public_bytes(Encoding.DER)) == key_of(made)


def test_whatever_is_no_certificate_is_refused_in_one_way() -> None:
    whole = certificate("ed25519").public_bytes(Encoding.DER)
    for end in range(len(whole)):
        with pytest.raises(ValueError, match="certificate"):
            pin_of(whole[:end])
    with pytest.raises(ValueError, match="certificate"):
        pin_of(b"\x04" + whole[1:])


@pytest.mark.parametrize("pins", [(), (PIN,), (PIN, "sha256-" + "b" * 43)])
def test_a_join_tokens_text_holds_its_secret_and_the_pins(pins: tuple[str, ...]) -> None:
    assert split_join_token(with_pins("obtj_secret-of_it", pins)) == ("obtj_secret-of_it", pins)


@pytest.mark.parametrize(
    "text",
    [f"header.payload.{'A' * 43}", f"obtj_x.{PIN}x", f"obtj_x.sha256-{'A' * 42}", f".{PIN}", "obtj_x."],
)
def test_a_token_with_dots_of_its_own_is_left_whole(text: str) -> None:
    assert split_join_token(text) == (text, ())
