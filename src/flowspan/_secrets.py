"""Know secrets by their name or by their form, and mask them in texts.

Every pattern here takes time that is linear in the length of the text: it starts only where a word
or a delimiter starts, and once it has started, what follows is optional or of limited length.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MASK: Final = "[redacted]"

# Names

_EDGE: Final = r"[\W_]"
_KINDS_OF_KEYS: Final = (
    "access|account|api|app(?:lication)?|auth|consumer|encryption|fernet|licen[cs]e|master"
    "|private|shared|signing|ssh|subscription"
)
_SECRET_NAME: Final = re.compile(
    rf"""passw(?:or)?d|passphrase|secret(?!ar)|token(?!i[sz])|authorization|credential
    |cookie(?!cutter)|conn(?:ection)?{_EDGE}?str(?:ing)?(?![a-z])|shared{_EDGE}?access{_EDGE}?signature
    |(?:{_KINDS_OF_KEYS}){_EDGE}?key(?!{_EDGE}?name)
    |(?:^|{_EDGE})(?:auth|dsn|jwt|pass|pw|session|sig|signature)$|{_EDGE}pat$|(?:pwd|creds)$
    |(?:db|key|root|sql|store|user)pass$|session{_EDGE}?(?:id|key)$""",
    re.IGNORECASE | re.VERBOSE,
)
_OF_TWO_WORDS: Final = re.compile(
    rf"\b(?:(?:{_KINDS_OF_KEYS}) key|connection string)$", re.IGNORECASE
)
# What is known about a secret is none.
_ABOUT: Final = re.compile(
    r"(?:[\W_]|(?<=[a-z])(?=[A-Z]))(?i:exists|expir(?:y|es|ation)(?:_(?:at|in))?|fields?|file|length"
    r"|names?|params?|path|policy|provider|scheme|source|status|types?|version)$"
)
# Counts of a language model's tokens are not secret, unlike the tokens of an API.
_COUNT: Final = re.compile(r"tokens|token_(?:count|limit|usage)", re.IGNORECASE)
# Outside of quotes and queries, these are mostly something else.
_DOUBTFUL: Final = re.compile(r"^pass$|(?:^|[\W_])(?:session|sig|signature)$", re.IGNORECASE)


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Return whether a value of this name is a secret."""
    return _SECRET_NAME.search(name) is not None and _ABOUT.search(name) is None


@lru_cache(maxsize=4096)
def is_count(name: str) -> bool:
    """Return whether numbers of this name, which sounds like a secret's, are counts."""
    return _COUNT.search(name) is not None


# Texts

# What a token is made of. Every token below has that many of these, and ordinary lines do not.
_RUN: Final = re.compile(r"[A-Za-z0-9_-]{20,}")
# Tokens that their first characters give away, as the issuers document them. Those whose prefix may
# start an ordinary name go on without a dash or an underscore.
_TOKEN: Final = re.compile(
    r"""(?:(?<=\\)[nrt]|(?<=%)[0-9A-F]{2}|\d{1,3}m)?(                       # "\n", "%3D", a colour
    (?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])          # AWS
    |(?:ABSK|LTAI|ATBB|AKCp)[A-Za-z0-9+/]{20,}                              # Bedrock, Alibaba, ...
    |(?:AIza|GOCSPX-|(?<=ya29\.)|(?<=1//)0)[\w-]{20,}                       # Google
    |(?:gh[opsur]_|github_pat_|GR1348941)\w{20,}                             # GitHub, GitLab
    |gl(?:agent|cbt|dt|ffct|ft|imt|oas|pat|ptt|rt|soat)-[\w-]{20,}
    |(?:ATATT|ATCTT)[\w=-]{20,}                                             # Atlassian
    |(?:xox[a-z]|xapp)-[A-Za-z0-9-]{15,}                                    # Slack
    |(?:[rs]k_(?:live|prod|test)|whsec)_[A-Za-z0-9]{12,}                    # Stripe
    |sk-(?:(?:admin|ant|or|proj|svcacct)-[\w-]{20,}|[A-Za-z0-9]{32,})       # models
    |(?:api_org|gsk|hf|nvapi|pplx|r8)[_-][A-Za-z0-9]{20,}
    |(?:npm|dckr_[op]at|rubygems|pn[bu])_[A-Za-z0-9]{20,}|pypi-AgE[\w-]{20,}    # packages, Prefect
    |(?:dapi|dose)[a-f0-9]{32}|dbt[a-z]_[A-Za-z0-9]{20,}|4b1d[A-Za-z0-9]{38}(?!\w)  # databases
    |(?:pscale_[a-z]{2,6}|sbp|sb_secret)_[\w.=-]{20,}|napi_[a-z0-9]{40,}
    |(?:do[opr]_v1|glc|glsa|ntn|lin_api|sntry[su]|figd|tfp|rdme|sgp|shp[acps][at]|shpss)_[\w-]{20,}
    |(?:pul|fio-u|tskey-[a-z]{3,9}|NRAK|NRII|PMAK|CFPAT|sq0[a-z]{3}|xkeysib)-[A-Za-z0-9_-]{20,}
    |(?<=hv[bsr]\.)[\w-]{20,}|(?:(?<=dp\.[ps]t\.)|(?<=dt0c01\.))[\w.-]{20,}    # Vault, Doppler
    |(?<=SG\.)[\w-]{20,}\.[\w-]{20,}|SK[a-f0-9]{32}|[a-f0-9]{32}-us\d       # mail and messages
    |(?<=:)AA[\w-]{33}|[MNO][\w-]{23,25}\.[\w-]{6}\.[\w-]{27,}
    |ops_eyJ[\w+/-]{20,}|(?<=sha256~)[\w-]{43}|AGE-SECRET-KEY-1[A-Z0-9]{20,}
    |(?<=pat[A-Za-z0-9]{14}\.)[a-f0-9]{64}|(?<=\.atlasv1\.)[\w-]{20,}       # Airtable, Terraform
    |eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*){1,3}                               # JSON web tokens
    |(?i:(?<=basic[ ])|(?<=bearer[ ]))(?=\S*\d)[\w.~+/=-]+
    )""",
    re.VERBOSE,
)
_ENTRA: Final = re.compile(r"\dQ~[\w.~-]{31,34}")  # an application's secret, after three characters
_HOOK: Final = re.compile(
    r"((?:hooks\.slack\.com/[a-z]{8,9}|/api/webhooks|\.webhook\.office\.com/webhookb2)/)[^\s\"'<>]+"
)

_PRIVATE_KEY: Final = re.compile(
    r"""-----BEGIN[A-Z0-9 ]{0,40}PRIVATE[ ]KEY[A-Z ]{0,10}-----(?:\\+[nr]|[\sA-Za-z0-9+/=:,.])*
    (?:-----END[A-Z0-9 ]{0,60}-----)?""",
    re.VERBOSE,
)
# A password may contain a slash or an @, which is the last one before a host. What looks like a
# port is one. A value without a colon is a token, as in Git's URLs.
_URL_CREDENTIALS: Final = re.compile(
    r"""(?<=://)[^\s/:"'<>\[]*:(?!\d{2,5}(?:[/?\#,;)\]}]|$))
        (?:(?!://)[^\s"'<>@])*@(?:(?![\w.:,\[\]-]+[/?])(?:(?!://)[^\s"'<>@])*@)*
    |(?:(?<=http://)|(?<=https://))[^\s/:@"']+@
    |(?<=:thin:)[^\s/@"']+/[^\s@"']+@                                      # Oracle's JDBC
    """,
    re.IGNORECASE | re.VERBOSE,
)

_QUOTE: Final = r"""\\*["'`]"""
_COLOUR: Final = r"(?:\x1b\[[\d;]{0,9}m){0,2}"
_NAMED: Final = re.compile(
    rf"""(?P<open>[(\[]b?{_QUOTE})?(?<![\w.-])(?:
        (?P<flag>--?[A-Za-z][\w.-]*)(?:{_QUOTE},)?[ \t]+(?!-)              # --password x
        |(?P<clause>(?i:password|identified[ ]by)|(?:[A-Z]+_)*(?:CREDENTIALS|KEY|SECRET|TOKEN))
            [ \t]+(?=["'])                                                 # PASSWORD 'x'
        |(?=(?P<name>[\w.-]*\w))(?P=name)(?:                               # the whole word
            {_COLOUR}(?:{_QUOTE})?\]?{_COLOUR}[ \t]*
                (?P<sign>:?=[=>]?|:(?!//)|%3[AD])[ \t]*{_COLOUR}           # password = "x"
            |{_QUOTE},?\s+(?:b?{_QUOTE})?[Vv]alue(?:{_QUOTE})?[ \t]*[:=][ \t]*  # name="x", value=
            |(?P<pair>{_QUOTE},[ \t]*)                                     # ("password", "x")
            |(?P<tag>>)                                                    # <password>x
        )
    )""",
    re.VERBOSE,
)
_VALUE: Final = re.compile(
    r"""[bfruBFRU]{0,2}(?P<quote>\"{3}|'{3}|["'`])(?:\\.|(?P=quote){2}|(?!(?P=quote)).)*(?P=quote)?
    |(?P<escaped>\\+["'])(?:(?!(?P=escaped))(?:\\+.|[^\\\r\n]))*(?P=escaped)?
    |(?P<flag>(?:None|null|nil|[Tt]rue|[Ff]alse|bool|bytes|int|str)(?![^\s,;&"'`)\]}<]))
    |(?P<open>[\[({])
    |(?i:digest|aws4-hmac-sha256|oauth|sharedaccesssignature)[ \t][^\r\n]*
    |(?:(?i:apikey|basic|bearer|bot|digest|hmac|key|negotiate|ntlm|snowflake|splunk|token)[ \t]+)?
     (?:\[redacted\]|[^\s,;&"'`)\]}<>%\x1b]|%(?!3B|26)
        |[,;&](?![\s,;&"'`)\]}<>]|[\w.%+-]*[=:]|$)|["'`)\]}<>](?=\w))+""",
    re.VERBOSE,
)
_LINE: Final = re.compile(r"[^\r\n]+")
_ELEMENT: Final = re.compile(r"[^<]+")
_BRACKET: Final = re.compile(r"""(?P<open>[\[({])|[\])}]|"(?:\\.|[^"\\])*"?|'(?:\\.|[^'\\])*'?""")
_SIGNS: Final = ("=", ":", "'", '"', " -", ">", "%3")
# Most texts have none of these words, and checking for them is cheap.
_WORDS: Final = (
    *("key", "pass", "token", "secret", "auth", "cred", "conn", "pwd", "cookie", "dsn", "sig"),
    *("session", "jwt", "_pat", "_pw", "identified"),
)

# Programs whose short option takes a password
_COMMAND: Final = re.compile(
    r"""(\b(?:
        (?:curl|wget)\b[^\r\n|]{0,200}?[ ](?:-u|--(?:proxy-)?user)[ =]?["']?[^\s:"']*:
        |(?:sshpass|docker[ ]login)\b[^\r\n|;&]{0,200}?[ ]-p[ ]?
        |(?:mysql|mariadb)[\w-]*\b[^\r\n|;&]{0,200}?[ ]-p(?=\S)
        |redis-cli\b[^\r\n|;&]{0,200}?[ ]-a[ ]
        |(?:sqlcmd|bcp)\b[^\r\n|;&]{0,200}?[ ]-P[ ]?
    ))[^\s"']+""",
    re.VERBOSE,
)
_OPTIONS: Final = (" -p", " -u", " -a", " -P", "user")


def masked(text: str) -> str:
    """Return a text with its secrets masked; a text that has none is looked at once or twice."""
    if "PRIVATE KEY" in text:
        text = _PRIVATE_KEY.sub(MASK, text)
    if "@" in text:
        text = _URL_CREDENTIALS.sub(f"{MASK}@", text)
    if _RUN.search(text):
        text = _replace(text, _tokens(text))
    if "hook" in text:
        text = _HOOK.sub(rf"\1{MASK}", text)
    if "Q~" in text:
        text = _ENTRA.sub(MASK, text)
    if _may_assign(text):
        text = _replace(text, _named(text))
    if " -" in text and _has_any(_OPTIONS, text):
        text = _COMMAND.sub(rf"\1{MASK}", text)
    return text


def _replace(text: str, spans: Iterable[tuple[int, int, str]]) -> str:
    """Replace parts of a text, each given as its start, its end and what to show instead."""
    pieces: list[str] = []
    kept = 0
    for start, end, shown in spans:
        pieces += text[kept:start], shown
        kept = end
    return "".join([*pieces, text[kept:]]) if pieces else text


def _tokens(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield the tokens that their form gives away."""
    at = 0
    while run := _RUN.search(text, at):
        token = _TOKEN.match(text, run.start())
        at = (token or run).end()
        if token:
            yield token.start(1), at, MASK


def _may_assign(text: str) -> bool:
    return _has_any(_SIGNS, text) and _has_any(_WORDS, text.lower())


def _has_any(parts: tuple[str, ...], text: str) -> bool:
    for part in parts:  # noqa: SIM110 - this is on every log line, and `any` takes twice as long
        if part in text:
            return True
    return False


def _named(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield the values that a text gives to names of secrets."""
    at = 0
    while found := _NAMED.search(text, at):
        at = found.end()
        if _names_secret(text, found) and (value := _value(text, found)):
            yield at, *value
            at = value[0]


def _names_secret(text: str, found: re.Match[str]) -> bool:
    """Return whether what was found is a secret's name, given a value in a way that names are."""
    if found["clause"]:
        return found["clause"] != "KEY"
    name = found["flag"] or found["name"]
    if found["pair"] and not found["open"]:
        return False
    if found["tag"] and text[found.start() - 1 : found.start()] not in ("<", ":"):
        return False
    if name.lower() in ("key", "string"):
        return (
            _OF_TWO_WORDS.search(text[max(found.start() - 20, 0) : found.end("name")]) is not None
        )
    if not is_secret(name) or is_count(name):
        return False
    return not _DOUBTFUL.search(name) or _is_quoted(text, found)


def _is_quoted(text: str, found: re.Match[str]) -> bool:
    """Return whether a name stands in a query or in quotes."""
    return text[found.start() - 1 : found.start()] in ("?", "&", ";", '"', "'")


def _value(text: str, found: re.Match[str]) -> tuple[int, str] | None:
    """Return where the value after a name ends and what replaces it, unless it is harmless."""
    at = found.end()
    if found["tag"]:
        pattern = _ELEMENT
    elif found["sign"] == ":" and found["name"].lower().endswith("cookie"):
        pattern = _LINE
    else:
        pattern = _VALUE
    value = pattern.match(text, at)
    if value is None:
        return None
    groups = value.groupdict("")
    if groups.get("flag"):
        return None
    end = _end_of_bracket(text, at) if groups.get("open") else value.end()
    quote = groups.get("quote") or groups.get("escaped")
    if found["pair"] and not (quote and text[end : end + 1] in (")", "]")):
        return None
    return end, f"{quote}{MASK}{quote}" if quote else MASK


def _end_of_bracket(text: str, at: int) -> int:
    """Return where the bracket that opens at `at` is closed, or the end of the text."""
    depth = 0
    for part in _BRACKET.finditer(text, at):
        if part["open"]:
            depth += 1
        elif part[0] in ")]}":
            depth -= 1
            if depth == 0:
                return part.end()
    return len(text)
