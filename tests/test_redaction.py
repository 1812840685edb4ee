"""Secrets stay out of telemetry: one function masks log records, attributes and parameters."""

import datetime as dt
import re
import time
import tracemalloc
import uuid
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prefect.blocks.system import Secret
from pydantic import SecretBytes, SecretStr
from sqlalchemy.engine import make_url

from flowspan.redaction import MASK, redact, redact_parameter, redact_text
from flowspan.values import LONGEST_RENDERED
from secret_shapes import ORDINARY, TEXTS, TOKENS, VALUES, S

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "key",
    [
        *("password", "PASSWORD", "db_password", "passwordHash", "passwd", "passphrase", "pwd"),
        *("secret", "client_secret", "clientSecret", "token", "access_token", "apiToken"),
        *("api_key", "apikey", "API-KEY", "x.api.key", "access_key", "accountKey", "private_key"),
        *("authorization", "Proxy-Authorization", "auth", "http_auth", "credentials", "cookie"),
        *("Set-Cookie", "session", "session_id", "sessionid", "connection_string", "dsn"),
        *("encryption_key", "signing-key", "ssh_key", "dbPass", "user_pw", "GITHUB_PAT", "creds"),
        *("fernet_key", "Ocp-Apim-Subscription-Key", "sig", "X-Amz-Signature", "connStr"),
        *("fs.azure.account.key.a.b", "SECRET_KEY_BASE", "secret_id"),
    ],
)
@pytest.mark.parametrize("value", [S, S.encode(), 1234, [S], {"a": S}, object()])
def test_secret_keys(key: str, value: object) -> None:
    """Values with secret-sounding keys are masked, whatever they are, also inside containers."""
    assert redact(value, key) == MASK
    assert redact({"outer": [{key: value}]}) == {"outer": [{key: MASK}]}
    assert redact_parameter(value, key) == MASK


@pytest.mark.parametrize(
    "key",
    [
        *("rows", "author", "monkey", "keyboard", "compass", "passenger", "sessions", "authority"),
        *(
            "session_count",
            "table",
            "primary_key",
            "sort_key",
            "",
            "path",
            "secretary",
            "tokenizer",
        ),
        *("password_policy", "token_type", "secretName", "private_key_path", "cookiecutter"),
        *("token_expires_in", "partition_key", "storage_key", "bypass", "design", "conn_strategy"),
    ],
)
def test_other_keys(key: str) -> None:
    """Values whose keys only resemble a secret's are kept."""
    assert redact("plain", key) == "plain"


def test_counts_of_tokens_are_no_secrets() -> None:
    """Counts of a language model's tokens are kept; tokens themselves are masked."""
    for key in ("tokens", "max_tokens", "token_count", "prompt_tokens"):
        assert redact(512, key) == 512
        assert redact("512", key) == MASK
    assert redact(512, "token") == MASK


def test_flags_are_no_secrets() -> None:
    """A flag that says whether there is a secret is kept."""
    for value in (None, True, False):
        assert redact(value, "has_password") is value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://me:hunter2@db/x", "postgresql://[redacted]@db/x"),
        ("redis://:hunter2@db", "redis://[redacted]@db"),
        ("amqp+ssl://me:p@hunter2@db", "amqp+ssl://[redacted]@db"),
        ("a://b:hunter2@c and d://e:hunter2@f", "a://[redacted]@c and d://[redacted]@f"),
        ("https://host:80/x?mail=me@here", "https://host:80/x?mail=me@here"),
        ("https://host/x?token=hunter2&n=1", "https://host/x?token=[redacted]&n=1"),
        ("Server=db;User Id=me;Password=hunter2;", "Server=db;User Id=me;Password=[redacted];"),
        ("AccountName=a;AccountKey=hunter2==", "AccountName=a;AccountKey=[redacted]"),
        ("host=db password='hunter2' dbname=x", "host=db password='[redacted]' dbname=x"),
        ("connect(user='me', password='hunter2')", "connect(user='me', password='[redacted]')"),
        ("{'api_key': 'hunter2', 'n': 1}", "{'api_key': '[redacted]', 'n': 1}"),
        ('{"token":"hunter2"}', '{"token":"[redacted]"}'),
        ("https://hunter2@github.com/x", "https://[redacted]@github.com/x"),
        ("ssh://git@github.com/x", "ssh://git@github.com/x"),
        ("Authorization: Bearer hunter2", "Authorization: [redacted]"),
        ("{'Authorization': 'Basic hunter2'}", "{'Authorization': '[redacted]'}"),
        ("X-API-Key: hunter2, n: 1", "X-API-Key: [redacted], n: 1"),
        ("Cookie: a=hunter2; b=hunter2\nn: 1", "Cookie: [redacted]\nn: 1"),
        ("password: hunter2\nuser: me", "password: [redacted]\nuser: me"),
        (r'{"body": "{\"token\": \"hunter2\"}"}', r'{"body": "{\"token\": \"[redacted]\"}"}'),
        (r"""password='it\'s hunter2', n=1""", "password='[redacted]', n=1"),
        ("password='hunter2 and more", "password='[redacted]'"),
        ("UID=me;PWD={hunter 2;};Server=db", "UID=me;PWD=[redacted];Server=db"),
        ("token=b'hunter2'", "token='[redacted]'"),
        ("tokens = ['a'], token=['hunter2', 'b']", "tokens = ['a'], token=[redacted]"),
        ("{'secret': {'a': {'b': 'hunter2'}}, 'n': 1}", "{'secret': [redacted], 'n': 1}"),
        (
            "Conn(credentials='hunter2', dsn='hunter2')",
            "Conn(credentials='[redacted]', dsn='[redacted]')",
        ),
        (
            "(private_key='hunter2', auth=('me', 'hunter2'))",
            "(private_key='[redacted]', auth=[redacted])",
        ),
        ("if token == 'hunter2':", "if token == '[redacted]':"),
        ("a token:// and tokens: 5", "a token:// and tokens: 5"),
        ("the password is reset, tokens=5", "the password is reset, tokens=5"),
        ("rows=5 key=a", "rows=5 key=a"),
    ],
)
def test_texts(text: str, expected: str) -> None:
    """Credentials in texts are masked, and masking again changes nothing."""
    assert redact_text(text) == redact(text) == expected
    assert redact(expected) == expected
    assert redact([{"url": text}]) == [{"url": expected}]
    assert redact(text.encode()) == expected.encode()


def shown(text: str) -> str:
    """Return a marked text as it must be shown."""
    return re.sub("«[^»]*»", MASK, text)


def unmarked(text: str) -> str:
    return text.replace("«", "").replace("»", "")


@pytest.mark.parametrize("text", TEXTS)
def test_shapes_of_texts(text: str) -> None:
    """Exactly the secrets of a text are masked, wherever the text is, and only once."""
    given, expected = unmarked(text), shown(text)
    assert redact(given) == redact(expected) == expected
    assert redact([{"a": given}]) == [{"a": expected}]
    assert redact(given.encode()) == expected.encode()
    assert str(redact(RuntimeError(given))) == f"RuntimeError({expected!r})"[:LONGEST_RENDERED]


@pytest.mark.parametrize("kind", TOKENS)
def test_tokens(kind: str) -> None:
    """A token is masked without any name, next to what may stand before it, and nothing else is."""
    token, secret = TOKENS[kind]
    for before, after in (("", ""), ("using ", ", then"), ("'", "'"), ("(", ")"), ("n=", " m=1")):
        found = redact(f"{before}{token}{after}")
        assert secret not in found
        assert found.startswith(before)
        assert found.endswith(after)
    for before in (r"first\n", "\x1b[32m", "https://x/?a%3D"):
        assert secret not in redact(f"{before}{token}")
    assert secret not in str(redact({"a": [token.encode()]}))


@pytest.mark.parametrize(("value", "kept"), VALUES)
def test_shapes_of_values(value: object, kept: str) -> None:
    """Fields, pairs, settings and options show their names and not their secrets."""
    for found in (redact(value), redact({"a": [value]}), redact_parameter(value)):
        assert S not in str(found)
        assert "cannot be rendered" not in str(found)
        assert [word for word in kept.split() if word not in str(found)] == []


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_texts(text: str) -> None:
    """What only resembles a secret is kept."""
    assert redact(text) == text


class Hidden:
    def __repr__(self) -> str:
        return "connected to mysql://me:hunter2@db"


@pytest.mark.parametrize(
    "value",
    [
        *(SecretStr(S), SecretBytes(S.encode()), Secret(value=SecretStr(S))),
        *(make_url("mysql://me:hunter2@db"), Hidden()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_secrets_in_objects(value: object) -> None:
    """Secret types and the repr of objects show no secret."""
    for found in (redact(value), redact({"a": [value]}), redact_parameter(value)):
        assert S not in str(found)
    if isinstance(value, (SecretStr, SecretBytes, Secret)):
        assert redact(value) == MASK


def test_flags_next_to_names_are_no_secrets() -> None:
    """A pair or a setting that says whether there is a secret is kept."""
    for value in (
        *(["password", None], ["token", True], {"name": "password", "value": None}),
        *(["the token was refreshed", "at noon"], ["--tokens", 5, "--token-type=x", "y"]),
    ):
        assert redact(value) == value


# docs/security.md


def rows(columns: int) -> list[list[str]]:
    """Return the examples of the tables with that many columns, without the first column."""
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    section = page.partition("\n## What is masked")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if re.match(r"\|(?!-| (?:in a|not) )", line)]
    cells = [
        re.fullmatch(r"\| [^|]+ \| " + r" \| ".join(["`([^`]+)`"] * columns) + r" \|", line)
        for line in lines
    ]
    return [list(found.groups()) for found in cells if found]


def test_the_table_of_what_is_masked() -> None:
    """Each example on the page is shown as the page says."""
    examples = rows(2)
    assert len(examples) == 20
    assert {text: redact(text) for text, _ in examples} == dict(examples)


def test_the_table_of_what_is_not_masked() -> None:
    """Each example on the page is kept; if it no longer is, the page has to say so."""
    examples = [text for [text] in rows(1)]
    assert len(examples) == 11
    assert [redact(text) for text in examples] == examples


# The Collector masks once more


COLLECTOR = yaml.safe_load((ROOT / "collector" / "base.yaml").read_text())["processors"][
    "redaction"
]
SAMPLES = [*map(unmarked, TEXTS), *(token for token, _ in TOKENS.values())]


@pytest.mark.parametrize("pattern", COLLECTOR["blocked_values"])
def test_the_collectors_values_are_known_here(pattern: str) -> None:
    """Every kind of secret that base.yaml knows is among the shapes above."""
    assert any(re.search(pattern, sample) for sample in SAMPLES)


@pytest.mark.parametrize(
    "kind",
    [
        *("AWS access key", "AWS temporary access key", "GCP API key", "GCP OAuth client secret"),
        *("GCP access token", "GitHub personal", "GitHub fine-grained", "GitLab personal"),
        *("GitLab routable", "npm", "PyPI", "Docker Hub", "Prefect user", "Slack bot", "Slack app"),
        *("Stripe secret", "SendGrid", "Anthropic", "OpenAI", "Hugging Face", "Databricks"),
        *("dbt Cloud", "Vault service", "DigitalOcean", "Grafana service account"),
        "JSON web token",
    ],
)
def test_the_collector_knows_common_tokens(kind: str) -> None:
    """base.yaml masks the tokens, too, which other libraries may have in their spans."""
    token, secret = TOKENS[kind]
    found = f"using {token} now"
    for pattern in COLLECTOR["blocked_values"]:
        found = re.sub(pattern, "****", found)
    assert secret not in found


@pytest.mark.parametrize("text", ORDINARY)
def test_the_collector_keeps_ordinary_texts(text: str) -> None:
    """But for what its patterns cannot tell from prose: names, and long words after "bearer"."""
    matching = [p for p in COLLECTOR["blocked_values"] if re.search(p, text)]
    assert [p for p in matching if "[=:]" not in p and "bearer" not in p] == []


@pytest.mark.parametrize("pattern", COLLECTOR["blocked_key_patterns"])
def test_the_collectors_keys_are_known_here(pattern: str) -> None:
    """Every key that base.yaml masks is masked here: all that a key has around the name is free."""
    names = (
        *("password", "db_passwd", "PASSPHRASE", "pass", "token", "access_token", "token_value"),
        *("token.secret", "secret", "client_secret", "api_key", "API-KEY", "access.key"),
        *("private_key", "authorization", "credential", "connection_string", "dsn", "SENTRY_DSN"),
        *("auth", "http.auth", "cookie", "set-cookie"),
    )
    matching = [name for name in names if re.search(pattern, name)]
    assert matching
    assert [name for name in matching if redact("x", name) != MASK] == []


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((None, None), (True, True), (5, 5), (0.5, 0.5), ("x", "x"), (b"x", b"x")),
        *((Colour.RED, "red"), (Level.HIGH, 3), (np.int64(5), 5), (np.float32(0.5), 0.5)),
        (np.bool_(True), True),  # noqa: FBT003 - as a comparison gives it
        *((Fraction(1, 4), 0.25), (Decimal("0.10"), "0.10"), (2**63, str(2**63))),
        (dt.datetime(2024, 1, 5, tzinfo=dt.timezone.utc), "2024-01-05 00:00:00+00:00"),
        (dt.timedelta(seconds=5), "0:00:05"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (PurePosixPath("/a/b"), "/a/b"),
        ((1, (2,)), [1, [2]]),
        ({3}, [3]),
        ({1: {"b": (None,)}}, {"1": {"b": [None]}}),
        (1j, "1j"),
        (ValueError("no"), "ValueError('no')"),
        ("a\udcff", "a?"),
    ],
    ids=repr,
)
def test_types(value: object, expected: object) -> None:
    """Values keep their type if OpenTelemetry has it; others become their natural text."""
    found = redact(value)
    assert found == expected
    assert type(found) is type(expected)


class Broken(dt.tzinfo):
    dst = tzname = None  # type: ignore[assignment]

    def utcoffset(self, _: dt.datetime | None) -> dt.timedelta:
        raise RuntimeError


def test_values_that_cannot_be_had() -> None:
    """A value is cut to its limit, and one that raises affects only itself."""
    assert len(redact("x" * 100_000)) < 40_000
    long = redact(ValueError("y" * 5000))
    assert long.startswith("ValueError('yy")
    assert len(long) == LONGEST_RENDERED
    assert redact(b"z" * 5000).startswith("b'zz")
    assert len(redact_text("x" * 100_000)) == 32_768
    assert redact_text("a\udcff") == redact_parameter("a\udcff") == "a?"
    broken = dt.datetime(2024, 1, 5, tzinfo=Broken())
    assert redact(broken) == redact_parameter(broken) == "<datetime that cannot be rendered>"
    endless: list[Any] = []
    endless.append(endless)
    assert "…" in str(redact(endless))
    assert len(redact(range(10**6).__class__(10**6) and [[0] * 100] * 10_000)) <= 1001
    assert len(redact_parameter([1] * 500)) == 256


@given(st.recursive(st.none() | st.integers() | st.floats() | st.text() | st.binary(), st.lists))
def test_any_value(value: object) -> None:
    """Nothing raises, and masking the result again changes nothing."""
    found = redact(value)
    assert repr(redact(found)) == repr(found)


SCRAPS = (
    *("password", "api key", "token", "--secret", "cookie:", "Authorization: Digest ", "<pwd>"),
    *("=", ":", ": ", " => ", "%3D", "('", '["', "', '", '", "value": "', "'", '"', '"""', "`"),
    *("\\", r"\"", r"\\\"", "\n", "\r", "\0", "\x1b[36m", "\x1b[", "\ud800", "é", "🔑", " ", ","),
    *(
        ";",
        "&",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        "<",
        ">",
        "://",
        "@",
        "/",
        "#",
        "?",
        "https://",
        "u:",
    ),
    *("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "hooks.slack.com/services/"),
    *(
        "ghp_",
        "xoxb-",
        "sk-ant-",
        "eyJ",
        ".",
        "Q~",
        "SG.",
        "AKIA",
        "Bearer ",
        "curl -u ",
        "mysql -p",
    ),
    *("a" * 30, "A1" * 40, "None", "[redacted]", "1", "x"),
)
"""What the patterns look for, and what stops them."""


@given(st.lists(st.sampled_from(SCRAPS) | st.text(max_size=3), max_size=60).map("".join))
def test_hostile_texts(text: str) -> None:
    """Any mixture of what the patterns look for is text afterwards, no longer than it may be."""
    for found in (redact(text), redact_text(text), redact_parameter(text)):
        assert isinstance(found, str)
        found.encode()
    assert isinstance(redact(text.encode(errors="surrogatepass")), bytes | str)
    assert "cannot be rendered" not in str(redact([text, {text: (text, text)}]))


@pytest.mark.parametrize(
    "scrap", [*SCRAPS, "a://b:", 'token="a', "pwd=(", "pwd=[}", "-eyJ", "curl "]
)
def test_long_texts_take_no_long_time(scrap: str) -> None:
    """The time to mask a text is linear in its length."""
    length = 8_000 // len(scrap)

    def spent(factor: int) -> float:
        before = time.thread_time()
        for start in (
            "",
            "password",
            "postgres://u:",
            "token='",
            "token=[",
            "-----BEGIN PRIVATE KEY-----",
        ):
            redact_text(start + scrap * length * factor, 1_000_000)
        return time.thread_time() - before

    once, eight_times = (
        min(pair) for pair in zip(*[(spent(1), spent(8)) for _ in range(3)], strict=True)
    )
    assert eight_times < 24 * once  # squared it would be 64


@pytest.mark.parametrize("value", [b"x" * 10**8, bytearray(10**8), "token=x " * 10**7], ids=type)
def test_long_values_take_no_long_time(value: object) -> None:
    """A long value is cut before it is examined, so no copy is as long."""
    tracemalloc.start()
    try:
        redact(value)
        redact_parameter(value)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 10**6
