import pytest

from obt_agent.config import urls
from obt_agent.protocol import limits


def test_the_sockets_path_is_that_of_the_protocol() -> None:
    assert urls.CONNECT_PATH == limits.CONNECT_PATH


@pytest.mark.parametrize(
    ("text", "socket"),
    [
        ("https://obt.example.org", "wss://obt.example.org/api/v1/agents/connect"),
        ("HTTPS://OBT.example.org:8881/", "wss://obt.example.org:8881/api/v1/agents/connect"),
        ("http://127.0.0.1:8881", "ws://127.0.0.1:8881/api/v1/agents/connect"),
        ("http://[::1]:8881", "ws://[::1]:8881/api/v1/agents/connect"),
        ("https://x/obt/", "wss://x/obt/api/v1/agents/connect"),
        ("https://x/api/v1/agents/connect", "wss://x/api/v1/agents/connect"),
        ("wss://x/other/path", "wss://x/other/path"),
        ("wss://x", "wss://x/api/v1/agents/connect"),
        ('"https://x"', "wss://x/api/v1/agents/connect"),
        (" https://x\n", "wss://x/api/v1/agents/connect"),
    ],
)
def test_a_servers_address_becomes_its_sockets(text: str, socket: str) -> None:
    assert urls.server_socket(text) == socket


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "ftp://x",
        "https://",
        "https://x:0",
        "https://x:99999",
        "https://[::1",
        "https://u@x",
        "https://x?a=1",
        "https://x#a",
        "https://x y",
        "https://0.0.0.0:8881",
        "wss://[::]",
        "https://224.0.0.1",
        "https://255.255.255.255",
        'https://"x',
    ],
)
def test_what_is_no_servers_address_is_refused(text: str) -> None:
    with pytest.raises(urls.WrongUrl):
        urls.server_socket(text)


@pytest.mark.parametrize(
    ("socket", "base"),
    [
        ("wss://x:1/api/v1/agents/connect", "https://x:1"),
        ("ws://x/obt/api/v1/agents/connect", "http://x/obt"),
    ],
)
def test_a_sockets_address_leads_back_to_the_server(socket: str, base: str) -> None:
    assert urls.server_base(socket) == base


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("127.0.0.1:11434", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),  # noqa: S104 - nothing binds it
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("[::]:8080", "http://[::1]:8080"),
        (":8080", "http://127.0.0.1:8080"),
        ("gpu-box", "http://gpu-box:11434"),
        ("http://gpu-box", "http://gpu-box:80"),
        ("https://gpu-box/ollama/", "https://gpu-box:443/ollama"),
        ("http://localhost:11434/", "http://localhost:11434"),
        ("", "http://127.0.0.1:11434"),
        ("gpu-box:8080", "http://gpu-box:8080"),
        ("http://0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("[::1]", "http://[::1]:11434"),
        # the rest of the table in Ollama's own envconfig/config_test.go, and quotes of compose files
        ("1.2.3.4:1234", "http://1.2.3.4:1234"),
        (":66000", "http://127.0.0.1:11434"),
        (":-1", "http://127.0.0.1:11434"),
        ("gpu-box:port", "http://gpu-box:11434"),
        ("http://gpu-box:99999", "http://gpu-box:80"),
        ("[::1]:1337", "http://[::1]:1337"),
        ("[::]", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        ("::", "http://[::1]:11434"),
        ("fd00::5", "http://[fd00::5]:11434"),
        (" 1.2.3.4 ", "http://1.2.3.4:11434"),
        ('"1.2.3.4"', "http://1.2.3.4:11434"),
        ("'1.2.3.4'", "http://1.2.3.4:11434"),
        (' " 1.2.3.4 " ', "http://1.2.3.4:11434"),
        ("1.2.3.4\n", "http://1.2.3.4:11434"),
        ('"http://host.docker.internal:11434"', "http://host.docker.internal:11434"),
        ("https://1.2.3.4:4321", "https://1.2.3.4:4321"),
        ("https://example.com/ollama", "https://example.com:443/ollama"),
    ],
)
def test_ollamas_address_may_be_written_as_ollama_takes_it(text: str, base: str) -> None:
    assert urls.ollama_base(text) == base
    assert urls.ollama_base(base) == base


@pytest.mark.parametrize(
    "text",
    [
        "ftp://x",
        "x:0",
        ":0",
        "u:1@x:2",
        "http://u:p@x",
        "http://x?y",
        "x:1?y",
        "http://a b",
        "http://[x",
        'a"b',
    ],
)
def test_what_is_no_address_of_ollama_is_refused(text: str) -> None:
    with pytest.raises(urls.WrongUrl):
        urls.ollama_base(text)


@pytest.mark.parametrize("text", ["env", "none", "http://u:p@proxy:3128", "socks5h://proxy"])
def test_a_proxy_may_be_given(text: str) -> None:
    assert urls.proxy_address(text) == text


def test_the_port_of_a_server_is_read_from_its_variable_as_the_server_reads_it() -> None:
    forms = {
        "": 11434,
        '":1234"': 1234,
        "::1": 11434,
        "[::]:8080": 8080,
        "http://0.0.0.0": 80,
        "ftp://x": 11434,
    }
    assert {text: urls.ollama_port(text) for text in forms} == forms


@pytest.mark.parametrize("text", ["auto", "ftp://proxy", "socks4://proxy", "http://"])
def test_what_is_no_proxy_is_refused(text: str) -> None:
    with pytest.raises(urls.WrongUrl):
        urls.proxy_address(text)


@pytest.mark.parametrize(
    ("url", "is_one"),
    [
        ("ws://127.9.9.9/x", True),
        ("ws://[::1]:1/x", True),
        ("ws://localhost/x", True),
        ("ws://LOCALHOST./x", True),
        ("ws://localhost.example.org/x", False),
        ("ws://10.0.0.1/x", False),
        ("ws://127.0.0.1.example.org/x", False),
    ],
)
def test_only_this_machine_counts_as_loopback(url: str, is_one: bool) -> None:
    assert urls.is_loopback(url) is is_one
