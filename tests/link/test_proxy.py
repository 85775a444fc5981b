"""Which proxy counts, and whom NO_PROXY excepts, in the forms that curl, Go and Python take."""

from __future__ import annotations

import pytest

from obt_agent.config.urls import PROXY_SCHEMES, WrongUrl, proxy_address
from obt_agent.link.address import parse_address
from obt_agent.link.disconnect import DialFailed, NextDial
from obt_agent.link.proxy import bypasses, choose, parse_proxy


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_which_proxy_of_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    secure, plain = (
        parse_address("https://h.example.org"),
        parse_address("http://h.example.org", allow_insecure=True),
    )
    local = parse_address("http://127.0.0.1:1")
    assert choose("env", secure) is None
    monkeypatch.setenv("https_proxy", "http://secure.example.org:3128")
    monkeypatch.setenv("http_proxy", "plain.example.org")
    assert repr(choose("env", secure)) == "http://secure.example.org:3128"
    assert repr(choose("env", plain)) == "http://plain.example.org:80"
    assert choose("env", local) is None
    assert choose("none", secure) is None
    assert repr(choose("socks5h://s.example.org", secure)) == "socks5h://s.example.org:1080"
    monkeypatch.setenv("no_proxy", "other.org,.example.org")
    assert choose("env", secure) is None


@pytest.mark.parametrize(
    ("url", "no_proxy"),
    [
        ("https://10.20.30.40:8881", "10.0.0.0/8,localhost"),
        ("https://[fd00:1::5]:8881", "fd00:1::/32"),
        ("https://[fd00:1::5]:8881", "[fd00:1::5]"),
        ("https://obt.corp.example", "*.corp.example"),
    ],
)
def test_a_server_in_a_network_or_below_a_domain_of_no_proxy_is_dialled_directly(
    monkeypatch: pytest.MonkeyPatch, url: str, no_proxy: str
) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.corp:3128")
    assert choose("env", parse_address(url)) is not None
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert choose("env", parse_address(url)) is None


@pytest.mark.parametrize(
    ("no_proxy", "host"),
    [
        ("*", "any.example"),
        ("corp.example", "corp.example"),
        ("corp.example", "obt.corp.example"),
        (".corp.example", "obt.corp.example"),
        (".corp.example", "corp.example"),
        ("corp.example.", "obt.corp.example"),
        ("CORP.example", "obt.Corp.example."),
        ("other.example corp.example", "corp.example"),
        ("obt.corp.example:8881", "obt.corp.example"),
        ("10.20.30.40", "10.20.30.40"),
        ("10.20.30.40:8881", "10.20.30.40"),
        ("10.1.2.3/8", "10.20.30.40"),
        ("fd00:1:0::5", "fd00:1::5"),
        ("[fd00:1::5]:8881", "fd00:1::5"),
    ],
)
def test_what_no_proxy_names(no_proxy: str, host: str) -> None:
    assert bypasses(no_proxy, host, 8881)


@pytest.mark.parametrize(
    ("no_proxy", "host"),
    [
        ("", "corp.example"),
        (",  ,", "corp.example"),
        (".", "corp.example"),
        ("*.corp.example", "corp.example"),
        ("corp.example", "notcorp.example"),
        ("corp.example:443", "corp.example"),
        ("10.0.0.0/8", "11.20.30.40"),
        ("10.0.0.0/99", "10.20.30.40"),
        ("10.0.0.0/8", "ten.example"),
        ("0.40", "10.20.30.40"),
        ("fd00:1::/32", "10.20.30.40"),
        ("[fd00:1::5]:443", "fd00:1::5"),
    ],
)
def test_what_no_proxy_does_not_name(no_proxy: str, host: str) -> None:
    assert not bypasses(no_proxy, host, 8881)


def test_an_empty_lower_case_variable_wins_over_upper_case(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.corp:3128")
    monkeypatch.setenv("https_proxy", "")
    assert choose("env", parse_address("https://obt.example.org")) is None


@pytest.mark.parametrize("scheme", ["http", "https", "socks4", "socks5", "socks5h", "ftp"])
def test_the_configuration_takes_exactly_the_proxies_that_are_dialled(scheme: str) -> None:
    url = f"{scheme}://proxy.corp:3128"
    if scheme in PROXY_SCHEMES:
        assert proxy_address(url) == url
        assert repr(parse_proxy(url, "server.proxy")) == url
        return
    with pytest.raises(WrongUrl, match="socks5h"):
        proxy_address(url)
    with pytest.raises(DialFailed, match="socks5h"):
        parse_proxy(url, "https_proxy")


@pytest.mark.parametrize("url", ["ftp://p", "http://", "http://p:x", "https://p"])
def test_a_proxy_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(DialFailed) as caught:
        parse_proxy(url, "server.proxy")
    assert caught.value.ending.next is NextDial.MAX_BACKOFF


def test_a_proxy_never_shows_its_credentials() -> None:
    proxy = parse_proxy("http://user:canary@p.example.org:1", "server.proxy")
    assert proxy.password == "canary"
    assert "canary" not in f"{proxy!r} {proxy}"
    assert "user" not in repr(proxy)
