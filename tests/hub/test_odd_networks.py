"""What stands between us and the hub: mirrors, proxies, login pages, certificates; and what the hub itself says."""

import json
import ssl
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
from hub_server import Answer, HubServer, published_source

import acquire

TURNS = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
CONTENT = json.dumps(
    [
        {"id": f"r{n}", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
        for n in range(9)
    ]
).encode()


def get(output: Path, **changes: object) -> None:
    acquire.main("chats", published_source(CONTENT, 9, **changes), output)


def refusal(output: Path, **changes: object) -> str:
    with pytest.raises(SystemExit) as stop:
        get(output, **changes)
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
    return stop.value.code


@pytest.fixture
def output(tmp_path: Path, hub: HubServer) -> Path:
    hub.files["someone/conversations/rows.json"] = CONTENT
    return tmp_path / "raw" / "chats.json"


@pytest.mark.parametrize("ending", ["/", "//", " "])
def test_an_endpoint_may_end_in_a_slash(hub: HubServer, output: Path, monkeypatch, ending: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.address + ending)
    get(output)
    assert output.read_bytes() == CONTENT
    assert not [path for path in hub.paths if path.startswith("//")]


@pytest.mark.parametrize("file", ["/rows.json", "../rows.json", "data//rows.json", "data/"])
def test_a_file_is_inside_its_repository(output: Path, file: str) -> None:
    message = refusal(output, file=file)
    assert f"{file!r} is no file inside a repository. Fix: " in message


@pytest.mark.parametrize("status", [400, 401, 403, 404, 451])
def test_the_hubs_own_explanation_is_passed_on(hub: HubServer, output: Path, status: int) -> None:
    hub.answers = [Answer(status, {"X-Error-Message": "User Access Token is expired"})] * 3
    assert "The hub says: User Access Token is expired" in refusal(output)
    assert hub.slept == []


@pytest.mark.parametrize(("status", "message"), [(451, "for legal reasons (451)"), (416, "refuses (416)")])
def test_errors_that_last_are_not_said_to_pass(hub: HubServer, output: Path, status: int, message: str) -> None:
    hub.answers = [Answer(status)] * 50
    said = refusal(output)
    assert message in said and "later" not in said
    assert hub.slept == [], "it is not tried again"


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Content-Type": "text/html; charset=utf-8"}, "a web page came instead of the file"),
        ({"Content-Encoding": "gzip"}, "the server sent it compressed (gzip)"),
        ({"Content-Type": "application/json"}, "30 bytes of application/json came"),
    ],
)
def test_another_content_is_no_cut_connection(hub: HubServer, output: Path, headers: dict, message: str) -> None:
    hub.sends["someone/conversations/rows.json"] = b"<title>Please log in</title> !"
    hub.store_headers = headers
    said = refusal(output)
    assert message in said and "Fix: " in said
    assert hub.slept == []
    hub.sends, hub.store_headers = {}, {}
    get(output)
    assert output.read_bytes() == CONTENT, "nothing of it is left in the next attempt's way"


def raising(error: Exception, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("amberline.hub.downloads.get_hf_file_metadata", fail)


def test_certificates_are_not_tried_again(hub: HubServer, output: Path, monkeypatch) -> None:
    error = httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate")
    raising(error, monkeypatch)
    said = refusal(output)
    assert "the server's certificate is refused" in said and "SSL_CERT_FILE" in said
    assert hub.slept == []
    error = httpx2.ConnectError("handshake")
    error.__cause__ = ssl.SSLCertVerificationError("expired")
    raising(error, monkeypatch)
    assert "the server's certificate is refused" in refusal(output)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "gopher://127.0.0.1:9"])
def test_a_proxy_that_cannot_be_used_is_a_message(output: Path, monkeypatch, proxy: str) -> None:
    monkeypatch.delenv("NO_PROXY")
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, proxy)
    huggingface_hub.close_session()
    said = refusal(output)
    assert "the proxy cannot be used" in said or "the network failed" in said
    assert "proxy" in said.lower() or "path" in said


def test_home_is_expanded_in_paths(output: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.json").write_bytes(CONTENT)
    get(output, path="~/own.json")
    assert output.read_bytes() == CONTENT
