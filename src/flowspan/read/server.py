"""Ask a server over HTTP, and say what to do if it does not answer."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

import httpx

from flowspan._version import __version__
from flowspan.errors import SourceError
from flowspan.text import clean

ANSWER_TIMEOUT: Final = 30.0
"""Seconds to wait for an answer."""

_CONNECT_TIMEOUT: Final = 5.0
_LONGEST_REASON: Final = 200  # characters of a server's message, which may be a page of HTML


def base_url(text: str) -> httpx.URL:
    """Parse the address of a server: a URL, with the base path of its API if it has one.

    A user and a password in it are sent as HTTP Basic authentication.

    Raises:
        ValueError: `text` is not such a URL.
    """
    try:
        url = httpx.URL(text.strip())
        is_usable = url.scheme in ("http", "https") and bool(url.host)
    except (httpx.InvalidURL, UnicodeError):
        is_usable = False
    if not is_usable:
        raise ValueError("It is no URL such as http://localhost:8080/path.")
    if url.query or url.fragment:
        raise ValueError("It has a query or a fragment: name only where the UI begins.")
    return url


def parse_headers(text: str) -> dict[str, str]:
    """Parse HTTP headers in the form of ``OTEL_EXPORTER_OTLP_HEADERS``: ``a=b,c=d``, URL-encoded.

    Raises:
        ValueError: A header is malformed. The message has no values, which may be secret.
    """
    found = {}
    for number, item in enumerate(filter(None, map(str.strip, text.split(","))), 1):
        name, equals, value = item.partition("=")
        name, value = name.strip(), unquote(value.strip())
        if (
            not (name and equals)
            or not (name + value).isascii()
            or not (name + value).isprintable()
        ):
            raise ValueError(f"Header {number} is not of the form name=value, URL-encoded.")
        found[name] = value
    return found


class Server:
    """A server that is asked over HTTP.

    Attributes:
        place: Its URL for messages, without credentials.
    """

    def __init__(self, url: httpx.URL, headers: Mapping[str, str]) -> None:
        # Messages must not contain possible secrets.
        self.place = str(url.copy_with(userinfo=b"")).rstrip("/")
        try:
            self._client = httpx.Client(
                base_url=url,
                headers={"User-Agent": f"flowspan/{__version__}", **headers},
                timeout=httpx.Timeout(ANSWER_TIMEOUT, connect=_CONNECT_TIMEOUT),
            )
        except (OSError, ValueError) as error:  # from SSL_CERT_FILE, HTTPS_PROXY and similar
            raise SourceError(f"{self.place} cannot be asked from here: {error}") from None

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def get(self, path: str, query: Mapping[str, str]) -> httpx.Response:
        """Return the answer, which may be an error of the server's own.

        Raises:
            SourceError: The server cannot be reached, asks for credentials, or is somewhere else.
        """
        try:
            response = self._client.get(path, params=query)
        except httpx.TimeoutException:
            raise SourceError(f"{self.place} does not answer in time.") from None
        except (httpx.HTTPError, UnicodeError) as error:  # the latter from an invalid host name
            reason = clean(error) or type(error).__name__
            raise SourceError(f"{self.place} cannot be reached: {reason}") from None
        status = response.status_code
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise SourceError(f"{self.place} asks for credentials, or other ones (HTTP {status}).")
        if response.next_request is not None:  # following it might send headers to somebody else
            there = response.next_request.url.copy_with(userinfo=b"", query=None, fragment=None)
            raise SourceError(f"{self.place} sends us on to {there}: is it there, or a log-in?")
        return response

    def refusal(self, response: httpx.Response, message: str | None) -> SourceError:
        """Return the error that an answer is, with the server's own message if it has one."""
        reason = clean(message or response.reason_phrase)[:_LONGEST_REASON]
        return SourceError(f"{self.place} answers HTTP {response.status_code}: {reason}")
