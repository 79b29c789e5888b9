"""What only a real socket shows: lines sent at once, and clients that leave."""

from __future__ import annotations

import json
import re
import socket
import time

import httpx
import ollama
import pytest

from appliance.core import Progress, Reply
from appliance.errors import EngineStopped, ModelNotFound
from tests.api.fake import BLOB, DETAILS, FINISHED, HANG, FakeService

SOON_S = 5.0  # generous: a slow machine must not fail what a fast one shows in milliseconds
OTHER_BLOB = "sha256:" + "1a" * 32


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def send(connection: socket.socket, body: str, path: str = "/api/chat") -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body.encode())


def read_until(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        chunk = connection.recv(4096)
        assert chunk, data
        data += chunk
    return data


def assert_cancelled(service: FakeService) -> None:
    assert service.ended.wait(SOON_S)
    assert service.cancelled


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/create"])
@pytest.mark.parametrize("stream", ["true", "false"])
def test_leaving_before_the_first_event_cancels(port: int, service: FakeService, path: str, stream: str) -> None:
    service.script = [HANG]
    with connect(port) as connection:
        send(connection, f'{{"model":"m","stream":{stream}}}', path)
        assert service.begun.wait(SOON_S)
    assert_cancelled(service)


@pytest.mark.parametrize("path", ["/api/embed", "/api/embeddings", "/api/rerank"])
def test_leaving_before_the_vectors_are_there_cancels(port: int, service: FakeService, path: str) -> None:
    service.script = [HANG]
    with connect(port) as connection:
        send(connection, '{"model":"m","input":"x","prompt":"x","query":"x","documents":["x"]}', path)
        assert service.begun.wait(SOON_S)
    assert_cancelled(service)


def test_leaving_in_the_middle_cancels(port: int, service: FakeService) -> None:
    service.script = [Reply(text="Once"), HANG]
    with connect(port) as connection:
        send(connection, '{"model":"m"}')
        assert b"Once" in read_until(connection, b"}\n")
        assert not service.ended.is_set()
    assert_cancelled(service)


def test_leaving_in_the_middle_of_what_is_not_streamed_cancels(port: int, service: FakeService) -> None:
    service.script = [Reply(text="Once"), HANG]
    with connect(port) as connection:
        send(connection, '{"model":"m","stream":false}')
        assert service.begun.wait(SOON_S)
    assert_cancelled(service)


def test_leaving_while_the_line_is_full_cancels(port: int, service: FakeService) -> None:
    """The generator is not waiting for anything then: the server waits for the client."""
    service.script = [Reply(text="x" * 2**20)] * 200
    with connect(port) as connection:
        send(connection, '{"model":"m"}')
        read_until(connection, b"xxxx")
        time.sleep(0.05)
        assert not service.ended.is_set()
    assert_cancelled(service)


def test_leaving_in_the_middle_of_an_upload_ends_it(port: int, service: FakeService) -> None:
    with connect(port) as connection:
        head = f"POST /api/blobs/{OTHER_BLOB} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode() + b"x" * 10)
        assert service.begun.wait(SOON_S)
    assert_cancelled(service)


def test_leaving_in_the_middle_of_a_json_body_is_no_defect(
    port: int, service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(port) as connection:
        connection.sendall(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
    with connect(port) as connection:  # the server goes on
        send(connection, '{"model":"m"}')
        read_until(connection, b'"done":true')
    assert len(service.calls) == 1
    assert not caplog.records


def test_after_leaving_the_next_request_is_served(port: int, service: FakeService) -> None:
    service.script = [HANG]
    with connect(port) as connection:
        send(connection, '{"model":"m"}')
        assert service.begun.wait(SOON_S)
    assert_cancelled(service)
    service.script = [FINISHED]
    assert httpx.post(f"http://127.0.0.1:{port}/api/chat", content='{"model":"m"}').json()["done"]


def test_each_line_arrives_at_once(port: int, service: FakeService) -> None:
    service.script = [Reply(text="first"), HANG]
    with (
        httpx.Client() as client,
        client.stream("POST", f"http://127.0.0.1:{port}/api/chat", content='{"model":"m"}') as r,
    ):
        assert (r.status_code, r.headers["content-type"]) == (200, "application/x-ndjson")
        assert r.headers["transfer-encoding"] == "chunked"
        received = r.iter_lines()  # held, because httpx hangs up with the iterator
        assert json.loads(next(received))["message"]["content"] == "first"
        assert not service.ended.is_set()
    assert_cancelled(service)


def test_curl_like_requests(port: int, service: FakeService) -> None:
    service.script = [Reply(text="a\u2028b"), FINISHED]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        form = {"content-type": "application/x-www-form-urlencoded"}
        response = client.post("/api/generate", content='{"model":"m","prompt":"x"}', headers=form)
        lines = [json.loads(line) for line in response.text.splitlines()]
        assert [line["response"] for line in lines] == ["a\u2028b", ""]
        service.script = [ModelNotFound("model 'nope' not found")]
        response = client.post("/api/generate", content='{"model":"nope"}')
        assert (response.status_code, response.json()) == (404, {"error": "model 'nope' not found"})
        service.script = [Reply(text="a"), EngineStopped()]
        response = client.post("/api/chat", content='{"model":"m"}')
        assert "error" in json.loads(response.text.splitlines()[-1])
        for path in ("/", "/api/version", "/api/tags"):
            head, whole = client.head(path), client.get(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == whole.headers["content-length"]
        response = client.post("/api/copy", content='{"source":"a","destination":"b"}')
        assert (response.status_code, response.headers["content-length"]) == (200, "0")


def test_an_upload_that_exists_leaves_the_connection_usable(port: int, service: FakeService) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(2):
            assert client.post(f"/api/blobs/{BLOB}", content=b"x" * 2**21).status_code == 200
        assert client.post(f"/api/blobs/{OTHER_BLOB}", content=iter([b"ab", b"cd"])).status_code == 201
        assert client.head(f"/api/blobs/{OTHER_BLOB}").status_code == 404
    assert service.uploaded == b"abcd"


def test_expect_100_continue(port: int, service: FakeService) -> None:
    with connect(port) as connection:
        head = f"POST /api/blobs/{OTHER_BLOB} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
        connection.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
        read_until(connection, b"100 Continue\r\n\r\n")
        connection.sendall(b"ab")
        read_until(connection, b"201 Created")


def test_create_streams_progress(port: int, service: FakeService) -> None:
    service.script = [Progress("parsing GGUF"), Progress("success")]
    response = httpx.post(f"http://127.0.0.1:{port}/api/create", content='{"model":"m","files":{}}')
    assert response.text == '{"status":"parsing GGUF"}\n{"status":"success"}\n'


def test_pipelined_and_kept_connections(port: int, service: FakeService) -> None:
    """Listening for a client that leaves must not swallow its next request."""
    with connect(port) as connection:
        for _ in range(3):
            send(connection, '{"model":"m"}')
        data = b""
        while len(re.findall(rb'"done":true', data)) < 3:
            data += connection.recv(65536)
    assert len(service.calls) == 3


def test_an_endless_body_is_refused(port: int, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent in chunks, so that no length is announced."""
    monkeypatch.setattr("api.requests.MAX_JSON_BYTES", 2**20)
    with connect(port) as connection:
        connection.sendall(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(17):
            connection.sendall(b"10000\r\n" + b" " * 2**16 + b"\r\n")
        assert b" 413 " in read_until(connection, b'{"error":"request body is larger than 1 MiB"}')
    assert service.calls == []


def test_the_official_client(port: int, service: FakeService) -> None:
    with ollama.Client(host=f"http://127.0.0.1:{port}") as client:
        said = client.chat("m", [{"role": "user", "content": "hi"}], options={"seed": 1}, keep_alive="5m")
        assert (said.message.content, said.done_reason, said.eval_count) == ("Hi", "stop", 3)
        parts = list(client.generate("m", "hi", stream=True, think=False, format=""))
        assert [part.response for part in parts] == ["Hi", ""]
        assert client.list().models == []
        assert client.show("m").modelinfo == DETAILS.model_info
        assert client.copy("a", "b").status == client.delete("b").status == "success"
        service.script = [Progress("parsing GGUF"), Progress("success")]
        assert client.create("m", from_="base", stream=False).status == "success"
        assert [step.status for step in client.create("m", from_="base", stream=True)] == ["parsing GGUF", "success"]
        service.script = [ModelNotFound("model 'nope' not found")]
        with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as raised:
            list(client.chat("nope", stream=True))
        assert raised.value.status_code == 404
