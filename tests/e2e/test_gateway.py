"""A shared Collector only accepts the token, or a certificate, over TLS."""

from __future__ import annotations

import re
import ssl
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

import grpc  # type: ignore[import-untyped]
import httpx
import pytest

from otlp import export, ids, layer, request, run_flow, wait_for_ids
from running import Collector, running
from sinks import Certificate, Sink, grpc_sink, self_signed_certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Make = Callable[..., "Gateway"]

TOKEN = "a token/with=signs"  # noqa: S105

protocols = pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """The gateway's certificate, which is its own authority."""
    return self_signed_certificate(tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """The flows' certificate, which is its own authority."""
    return self_signed_certificate(tmp_path_factory.mktemp("client"))


class Gateway(Collector):
    """A Collector with the layer; `sink` is the backend behind it."""

    def __init__(
        self, folder: Path, sink: Sink, server: Certificate, *more: str, **variables: str
    ) -> None:
        super().__init__(
            folder,
            *("gateway", "jaeger", *more),
            COLLECTOR_TOKEN=TOKEN,
            COLLECTOR_TLS_CERT=str(server.certificate),
            COLLECTOR_TLS_KEY=str(server.key),
            JAEGER_ENDPOINT=sink.endpoint.removeprefix("http://"),
            **variables,
        )
        self.sink = sink
        self.server = server

    def endpoint(self, protocol: str = "grpc") -> str:
        return super().endpoint(protocol).replace("http://", "https://")

    def ask(self, token: str | None, client: Certificate | None = None) -> tuple[str, str]:
        """Send a request of one span over each protocol; return the answers in words."""
        return self._ask_grpc(token, client), self._ask_http(token, client)

    def _ask_grpc(self, token: str | None, client: Certificate | None) -> str:
        pair = (client.key.read_bytes(), client.certificate.read_bytes()) if client else ()
        credentials = grpc.ssl_channel_credentials(self.server.certificate.read_bytes(), *pair)
        metadata = [("authorization", f"Bearer {token}")] if token else []
        target = self.endpoint().removeprefix("https://")
        with grpc.secure_channel(target, credentials) as channel:
            code: str = export(channel, request(1, 1), metadata).name
        return code

    def _ask_http(self, token: str | None, client: Certificate | None) -> str:
        context = ssl.create_default_context(cafile=self.server.certificate)
        if client:
            context.load_cert_chain(client.certificate, client.key)
        headers = {"Content-Type": "application/x-protobuf"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        url = f"{self.endpoint('http/protobuf')}/v1/traces"
        body = request(1, 2).SerializeToString()
        try:
            with httpx.Client(verify=context, trust_env=False) as caller:
                return str(caller.post(url, content=body, headers=headers).status_code)
        except httpx.HTTPError as error:
            return type(error).__name__


@pytest.fixture
def make(server: Certificate, tmp_path: Path) -> Iterator[Make]:
    """Start a gateway with more files and variables."""
    with grpc_sink() as sink:
        yield partial(Gateway, tmp_path / "c", sink, server)


def settings(protocol: str, server: Certificate, token: str = TOKEN) -> dict[str, str]:
    """Return the variables that the layer's comment tells flows to set."""
    return {
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{quote(token, safe='')}",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(server.certificate),
    }


@protocols
def test_flow_that_shows_all(
    protocol: str, prefect_server: str, make: Make, client: Certificate, tmp_path: Path
) -> None:
    """A flow with the token and a client certificate arrives, each span once."""
    gateway = make(COLLECTOR_CLIENT_CA=str(client.certificate))
    with running(gateway):
        flow, said = run_flow(
            prefect_server,
            tmp_path / "f",
            gateway.endpoint(protocol),
            OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=str(client.certificate),
            OTEL_EXPORTER_OTLP_CLIENT_KEY=str(client.key),
            **settings(protocol, gateway.server),
        )
        came = wait_for_ids(gateway.sink, flow.spans)
    assert came.keys() == flow.spans
    assert set(came.values()) == {1}
    assert "dropped" not in said


def test_token(make: Make) -> None:
    """Only the token is accepted."""
    gateway = make()
    with running(gateway):
        assert gateway.ask("wrong") == ("UNAUTHENTICATED", "401")
        assert gateway.ask(None) == ("UNAUTHENTICATED", "401")
        assert gateway.ask("idle") == ("UNAUTHENTICATED", "401")  # base.yaml's default
        assert gateway.ask(TOKEN) == ("OK", "200")
        came = wait_for_ids(gateway.sink, ids(request(2)))
    assert set(came.values()) == {1}


def test_client_certificate(make: Make, server: Certificate, client: Certificate) -> None:
    """If an authority for clients is set, the token alone is not enough."""
    gateway = make(COLLECTOR_CLIENT_CA=str(client.certificate))
    with running(gateway):
        assert gateway.ask(TOKEN) == ("UNAVAILABLE", "ReadError")
        assert gateway.ask(TOKEN, server) == ("UNAVAILABLE", "ReadError")  # of another authority
        assert gateway.ask("wrong", client) == ("UNAUTHENTICATED", "401")
        assert gateway.ask(TOKEN, client) == ("OK", "200")
        assert len(wait_for_ids(gateway.sink, ids(request(2)))) == 2


def test_certificate_instead_of_the_token(make: Make, client: Certificate, tmp_path: Path) -> None:
    """With the line from the layer's comment, a certificate is enough, and required."""
    protocols = {"grpc": {"auth": None}, "http": {"auth": None}}
    own = layer(tmp_path, "certificates", {"receivers": {"otlp": {"protocols": protocols}}})
    gateway = make(own, COLLECTOR_CLIENT_CA=str(client.certificate))
    with running(gateway):
        assert gateway.ask(None) == ("UNAVAILABLE", "ReadError")
        assert gateway.ask(None, client) == ("OK", "200")
        assert len(wait_for_ids(gateway.sink, ids(request(2)))) == 2


@pytest.mark.parametrize(
    "case",
    [
        ("grpc", "https", "yesterdays", "UNAUTHENTICATED"),
        ("http/protobuf", "http", TOKEN, "Bad Request|reset by peer"),
    ],
    ids=["token", "tls"],
)
def test_flow_that_does_not_get_in(
    case: tuple[str, str, str, str], prefect_server: str, make: Make, tmp_path: Path
) -> None:
    """With a wrong token, or without TLS, the flow ends well and says what is lost and why."""
    protocol, scheme, token, reason = case
    gateway = make()
    with running(gateway):
        flow, said = run_flow(
            prefect_server,
            tmp_path / "f",
            gateway.endpoint(protocol).replace("https", scheme),
            **settings(protocol, gateway.server, token),
        )
        assert gateway.sink.requests == []
    lines = [line for line in said.splitlines() if "Telemetry is being dropped" in line]
    assert len(lines) == 3  # one for each signal
    assert [line for line in lines if not re.search(reason, line)] == []
    assert token not in said  # the Collector's answer repeats it
    assert len(flow.spans) == 6
