"""Shapes that secrets come in. All secrets are invented.

In a text, « and » stand around what must be masked; all else must stay. Tokens are put together
here, so that no scanner takes this file for a leak. Their prefixes and lengths are those that the
issuers document, and that gitleaks and detect-secrets look for.
"""

import base64
import json
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import attrs
from pydantic import BaseModel, SecretStr

S: Final = "hunter2"


def _cycle(alphabet: str, length: int) -> str:
    return (alphabet * (length // len(alphabet) + 1))[:length]


def _mixed(length: int) -> str:
    return _cycle("aB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0cR", length)


def _hex(length: int) -> str:
    return _cycle("0f1e2d3c4b5a69788796a5b4c3d2e1f0", length)


def _upper(length: int) -> str:
    return _cycle("QWER2TYU3IOP4ASD5FGH6JKL7", length)


def _lower(length: int) -> str:
    return _cycle("qwertyuiopasdfghjklzxcvbnm", length)


def _base64(length: int) -> str:
    return _cycle("aB3dE5gH7jK9mN1pQ2sT4vW6xY8z/0cR+", length)


def _encoded(document: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


JWT: Final = f"{_encoded({'alg': 'HS256'})}.{_encoded({'sub': 'ada', 'n': 1})}.{_mixed(43)}"
_PEM_BODY: Final = "\n".join([_base64(64), _base64(64), "Zz09endOfTheKey="])


def pem(kind: str, line_end: str = "\n") -> str:
    """Return a PEM block, whose body starts and ends with what no other text has."""
    lines = (f"-----BEGIN {kind}-----", _PEM_BODY, f"-----END {kind}-----")
    return "\n".join(lines).replace("\n", line_end)


# Tokens that their form gives away, with the part of them that must not be left
TOKENS: Final = {
    "AWS access key": ("AKIA" + _upper(16), _upper(16)),
    "AWS temporary access key": ("ASIA" + _upper(16), _upper(16)),
    "AWS Bedrock": ("ABSK" + _base64(128), _base64(128)),
    "Alibaba access key": ("LTAI" + _mixed(20), _mixed(20)),
    "GCP API key": ("AIza" + _mixed(20) + "-" + _mixed(14), _mixed(14)),
    "GCP OAuth client secret": ("GOCSPX-" + _mixed(10) + "-" + _mixed(17), _mixed(17)),
    "GCP access token": ("ya29." + _mixed(90), _mixed(90)),
    "GCP refresh token": ("1//0" + _mixed(60), _mixed(60)),
    "Azure AD client secret": ("aB38Q~" + _mixed(34), _mixed(34)),
    "GitHub personal": ("ghp_" + _mixed(36), _mixed(36)),
    "GitHub OAuth": ("gho_" + _mixed(36), _mixed(36)),
    "GitHub user": ("ghu_" + _mixed(36), _mixed(36)),
    "GitHub server": ("ghs_" + _mixed(36), _mixed(36)),
    "GitHub refresh": ("ghr_" + _mixed(36), _mixed(36)),
    "GitHub fine-grained": ("github_pat_" + _mixed(22) + "_" + _mixed(59), _mixed(59)),
    "GitLab personal": ("glpat-" + _mixed(9) + "-" + _mixed(10), _mixed(10)),
    "GitLab routable": ("glpat-" + _mixed(27) + ".01.0" + _hex(8), _mixed(27)),
    "GitLab deploy": ("gldt-" + _mixed(20), _mixed(20)),
    "GitLab runner": ("glrt-" + _mixed(20), _mixed(20)),
    "GitLab job": ("glcbt-64_" + _mixed(20), _mixed(20)),
    "GitLab trigger": ("glptt-" + _hex(40), _hex(40)),
    "GitLab runner registration": ("GR1348941" + _mixed(20), _mixed(20)),
    "Bitbucket app password": ("ATBB" + _mixed(32), _mixed(32)),
    "Atlassian API": ("ATATT3xFfGF0" + _mixed(180), _mixed(180)),
    "Slack bot": ("xoxb-" + "1" * 11 + "-" + "2" * 12 + "-" + _mixed(24), _mixed(24)),
    "Slack user": ("xoxp-" + "1" * 11 + "-" + "2" * 11 + "-" + "3" * 12 + "-" + _hex(32), _hex(32)),
    "Slack app": ("xapp-1-A" + _upper(10) + "-" + "1" * 13 + "-" + _hex(64), _hex(64)),
    "Stripe secret": ("sk_live_" + _mixed(24), _mixed(24)),
    "Stripe restricted": ("rk_test_" + _mixed(24), _mixed(24)),
    "Stripe webhook": ("whsec_" + _mixed(32), _mixed(32)),
    "OpenAI": ("sk-proj-" + _mixed(74) + "T3BlbkFJ" + _mixed(74), _mixed(74)),
    "OpenAI, old": ("sk-" + _mixed(20) + "T3BlbkFJ" + _mixed(20), _mixed(20)),
    "Anthropic": ("sk-ant-api03-" + _mixed(93) + "AA", _mixed(93)),
    "Hugging Face": ("hf_" + _lower(34), _lower(34)),
    "Groq": ("gsk_" + _mixed(52), _mixed(52)),
    "PyPI": ("pypi-AgEIcHlwaS5vcmc" + _mixed(80), _mixed(80)),
    "npm": ("npm_" + _mixed(36), _mixed(36)),
    "Docker Hub": ("dckr_pat_" + _mixed(27), _mixed(27)),
    "RubyGems": ("rubygems_" + _hex(48), _hex(48)),
    "Prefect user": ("pnu_" + _mixed(36), _mixed(36)),
    "Prefect bot": ("pnb_" + _mixed(36), _mixed(36)),
    "Databricks": ("dapi" + _hex(32), _hex(32)),
    "Databricks OAuth": ("dose" + _hex(32), _hex(32)),
    "dbt Cloud": ("dbtc_" + _mixed(40), _mixed(40)),
    "ClickHouse Cloud": ("4b1d" + _mixed(38), _mixed(38)),
    "PlanetScale": ("pscale_tkn_" + _mixed(43), _mixed(43)),
    "Supabase": ("sbp_" + _hex(40), _hex(40)),
    "Neon": ("napi_" + _lower(64), _lower(64)),
    "DigitalOcean": ("dop_v1_" + _hex(64), _hex(64)),
    "Vault service": ("hvs." + _mixed(95), _mixed(95)),
    "Vault batch": ("hvb." + _mixed(150), _mixed(150)),
    "Terraform Cloud": (_mixed(14) + ".atlasv1." + _mixed(67), _mixed(67)),
    "Pulumi": ("pul-" + _hex(40), _hex(40)),
    "Grafana service account": ("glsa_" + _mixed(32) + "_" + _hex(8), _mixed(32)),
    "Grafana Cloud": ("glc_eyJ" + _mixed(60), _mixed(60)),
    "Sentry": ("sntryu_" + _hex(64), _hex(64)),
    "New Relic": ("NRAK-" + _upper(27), _upper(27)),
    "Dynatrace": ("dt0c01." + _upper(24) + "." + _upper(64), _upper(64)),
    "SendGrid": ("SG." + _mixed(22) + "." + _mixed(43), _mixed(43)),
    "Mailchimp": (_hex(32) + "-us12", _hex(32)),
    "Twilio": ("SK" + _hex(32), _hex(32)),
    "Shopify": ("shpat_" + _hex(32), _hex(32)),
    "Square": ("sq0csp-" + _mixed(43), _mixed(43)),
    "Notion": ("ntn_" + "1" * 11 + _mixed(35), _mixed(35)),
    "Linear": ("lin_api_" + _mixed(40), _mixed(40)),
    "Airtable": ("pat" + _mixed(14) + "." + _hex(64), _hex(64)),
    "Postman": ("PMAK-" + _hex(24) + "-" + _hex(34), _hex(34)),
    "Doppler": ("dp.pt." + _mixed(43), _mixed(43)),
    "1Password": ("ops_eyJ" + _mixed(250), _mixed(250)),
    "age": ("AGE-SECRET-KEY-1" + _cycle("QPZRY9X8GF2TVDW0", 58), _cycle("QPZRY9X8GF2TVDW0", 58)),
    "Telegram": ("123456789:AA" + _mixed(33), _mixed(33)),
    "Discord": ("MT" + _mixed(24) + "." + _mixed(6) + "." + _mixed(38), _mixed(38)),
    "OpenShift": ("sha256~" + _mixed(43), _mixed(43)),
    "JSON web token": (JWT, _mixed(43)),
}

TEXTS: Final = [
    # URLs of databases, queues, object stores and repositories
    "postgresql://«ada:hunter2»@db:5432/shop",
    "postgresql+psycopg2://«ada:hunter2»@db/shop",
    "mysql+pymysql://«root:hunter2»@db/shop?charset=utf8",
    "mongodb+srv://«ada:hunter2»@c0.ab1.mongodb.net/x?w=1",
    "mongodb://«a:hunter2»@h1:27017,h2:27017/x",
    "rediss://«:hunter2»@cache:6379/0",
    "amqps://«ada:hunter2»@mq/vhost",
    "snowflake://«ada:hunter2»@ab123/db/s?warehouse=w",
    "clickhouse+native://«default:hunter2»@ch:9440/x",
    "trino://«ada:hunter2»@trino:443/hive",
    "mssql+pyodbc://«sa:hunter2»@host/db?driver=ODBC+18",
    "sftp://«ada:hunter2»@files/in/a.csv",
    "s3://«KEYID:hunter2»@bucket/key",
    "HTTPS_PROXY=http://«ada:hunter2»@proxy:3128",
    "POSTGRESQL://«ADA:hunter2»@DB/X",
    "connect('postgresql://«ada:hunter2»@db/x', 5)",
    "from a://«b:hunter2»@c to d://«e:hunter2»@f",
    "https://«hunter2»@github.com/org/repo.git",
    "http://«hunter2»@git.example/x",
    "git+https://«hunter2»@github.com/org/repo@v1",
    "https://«oauth2:hunter2»@gitlab.com/o/r.git",
    "jdbc:postgresql://db/x?user=ada&password=«hunter2»&ssl=true",
    "jdbc:sqlserver://db:1433;user=sa;password=«hunter2»;encrypt=true",
    "jdbc:oracle:thin:«ada/hunter2»@//db:1521/svc",
    # the same with what should have been escaped
    "postgresql://«ada:p/w@d#1!»@db/shop",
    "redis://«:/hunter2»@cache/0",
    "mysql://«ada:hun?ter2»@db/x",
    "mysql://«ada:hun#ter2»@db/x",
    "amqp://«ada:p@hunter2»@mq/x",
    "mysql://«ada:a/b/hunter2»@db/x",
    "mysql://«ada:1/hunter2»@db/x",
    "mysql://«ada:a/b@hunter2»@db/x",
    "mysql://«ada:hunter%2F2»@db/x",
    "postgresql://«ada@srv:hunter2»@srv.postgres.azure.com/x",
    "mysql://«ada@mail.org:hunter2»@db/x",
    # queries and signed URLs
    "https://api.example/x?access_token=«hunter2»&page=2",
    "https://api.example/x?api_key=«hunter2»&page=2",
    "https://a.blob.core.windows.net/c/b?sv=2024-08-04&se=2026&sr=b&sig=«hunter2%3D»",
    "https://a.blob.core.windows.net/c/b?sig=«hunter2%3D»&sv=2024",
    "https://b.s3.amazonaws.com/k?X-Amz-Expires=60&X-Amz-Signature=«hunter2»",
    "https://b.s3.amazonaws.com/k?X-Amz-Security-Token=«hunter2»&n=1",
    "https://storage.googleapis.com/b/o?X-Goog-Expires=60&X-Goog-Signature=«hunter2»",
    "https://d1.cloudfront.net/x?Expires=1&Signature=«hunter2»&Key-Pair-Id=K1",
    "grant_type=password&client_secret=«hunter2»&scope=x",
    "a%3D1%26password%3D«hunter2»%26n%3D1",
    "mssql+pyodbc:///?odbc_connect=Server%3Ddb%3BPWD%3D«hunter2»%3BEncrypt%3Dyes",
    # web hooks
    f"https://hooks.slack.com/services/«T0ABCDEF1/B0ABCDEF1/{_mixed(24)}»",
    f"https://discord.com/api/webhooks/«123456789012345678/{_mixed(68)}»",
    f"https://x.webhook.office.com/webhookb2/«{_hex(8)}/IncomingWebhook/{_hex(32)}/1»",
    f"https://«{_hex(32)}»@o1.ingest.sentry.io/2",
    # connection strings
    "host=db user=ada password=«hunter2» dbname=shop",
    r"host=db password='«it\'s hunter2»' dbname=shop",
    "Driver={ODBC Driver 18};Server=db;UID=me;PWD=«hunter2»;Encrypt=yes",
    "UID=me;PWD=«{hun;ter2}»;Server=db",
    "Server=db;User Id=me;Password=«hunter2»;",
    "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=«hunter2==»;EndpointSuffix=x",
    "Endpoint=sb://n.windows.net/;SharedAccessKeyName=k;SharedAccessKey=«hunter2=»",
    "BlobEndpoint=https://a.blob/;SharedAccessSignature=«sv=2024»&sig=«hunter2»",
    "SharedAccessSignature sr=x&sig=«hunter2»&se=1&skn=k",
    "spark.hadoop.fs.s3a.secret.key=«hunter2»",
    "fs.azure.account.key.acct.dfs.core.windows.net=«hunter2»",
    'PlainLoginModule required username="ada" password="«hunter2»";',
    "connect(user='ada', password='«hunter2»', account='ab1')",
    # SQL
    "COPY t FROM 's3://b/k' CREDENTIALS '«aws_access_key_id=x;aws_secret_access_key=hunter2»'",
    "COPY t FROM 's3://b/k' ACCESS_KEY_ID 'x' SECRET_ACCESS_KEY '«hunter2»' CSV",
    "CREATE SECRET s (TYPE s3, KEY_ID 'k', SECRET '«hunter2»', REGION 'eu')",
    "CREATE USER ada WITH PASSWORD '«it''s hunter2»'",
    "CREATE USER 'ada'@'%' IDENTIFIED BY '«hunter2»'",
    "ALTER ROLE ada PASSWORD = '«hunter2»' VALID UNTIL '2027'",
    # headers
    "Authorization: «Bearer hunter2»",
    "authorization: «bearer hunter2»",
    "AUTHORIZATION: «BEARER hunter2»",
    "Authorization: «Basic aHVudGVyMg==»",
    "Authorization: «token hunter2»",
    "Proxy-Authorization: «Basic hunter2»",
    "Authorization: «AWS4-HMAC-SHA256 Credential=x/eu, SignedHeaders=host, Signature=hunter2»",
    'Authorization: «Digest username="ada", realm="r", response="hunter2"»',
    "X-API-Key: «hunter2»\nAccept: */*",
    "PRIVATE-TOKEN: «hunter2»",
    "Ocp-Apim-Subscription-Key: «hunter2»",
    "DD-API-KEY: «hunter2», DD-APPLICATION-KEY: «hunter2»",
    "X-Vault-Token: «hunter2»",
    "X-CSRF-Token: «hunter2»",
    "Cookie: «a=hunter2; b=hunter2»\nAccept: */*",
    "cookie:«a=1; b=hunter2»",
    "Set-Cookie: «sid=hunter2; HttpOnly»",
    f"sent Bearer «{_mixed(30)}» twice",
    f"sent Basic «{_mixed(24)}==» twice",
    # JSON, YAML and the like
    '{"user": "ada", "password": "«hunter2»", "n": 1}',
    '{"token":"«hunter2»","n":1}',
    '{"password": «482913», "n": 1}',
    '{"password":«482913»}',
    r'{"body": "{\"token\": \"«hunter2»\", \"n\": 1}"}',
    r'"\"{\\\"token\\\": \\\"«hunter2»\\\", \\\"n\\\": 1}\""',
    r'{"password": "«a\"hunter2»", "n": 1}',
    r'"{\"password\": \"«a\\\"hunter2»\", \"n\": 1}"',
    r'{"password": "«hunter2\\»", "n": 1}',
    '{"passwords": «["hunter2", "x"]», "n": 1}',
    '{"passwords": «["a]b", "hunter2"]», "n": 1}',
    '{"credentials": «{"a": {"b": {"c": 1}}, "d": {"e": "hunter2"}}», "n": 1}',
    '{"name": "DB_PASSWORD", "value": "«hunter2»"}',
    r'"{\"name\": \"DB_PASSWORD\", \"value\": \"«hunter2»\"}"',
    '[["password", "«hunter2»"], ["n", "1"]]',
    "answer: {'access_token': '«hunter2»', 'expires_in': 60}",
    "db:\n  user: ada\n  password: «hunter2»\n  port: 5",
    'user = "ada"\napi_key = "«hunter2»"',
    "[default]\naws_secret_access_key = «hunter2»\nregion = eu",
    "machine h login ada password '«hunter2»'",
    "<user>ada</user><password>«hunter2»</password><n>1</n>",
    '<add key="Password" value="«hunter2»" n="1"/>',
    ":user => 'ada', :password => '«hunter2»'",
    "{User:ada Password:«hunter2»}",
    'password = """«hunter2»""", n=1',
    "\x1b[36mpassword\x1b[0m=\x1b[35m«hunter2»\x1b[0m \x1b[36mn\x1b[0m=1",
    # what Python prints
    "Login(user='ada', api_key='«hunter2»')",
    "Option(name='password', value='«hunter2»')",
    "('password', '«hunter2»')",
    "environ({'HOME': '/root', 'DB_PASS': '«hunter2»'})",
    "the API key: «hunter2», the account key = «hunter2»",
    # environments
    *(
        f"HOME=/root\n{name}=«hunter2»\nTZ=UTC"
        for name in (
            *("DB_PASS", "PGPASSWORD", "MYSQL_PWD", "SNOWFLAKE_PASSWORD", "AWS_SECRET_ACCESS_KEY"),
            *("AWS_SESSION_TOKEN", "AZURE_CLIENT_SECRET", "AZURE_STORAGE_ACCOUNT_KEY", "GH_TOKEN"),
            *("GITHUB_PAT", "SLACK_BOT_TOKEN", "PREFECT_API_KEY", "DD_API_KEY"),
            *("DJANGO_SECRET_KEY", "SECRET_KEY_BASE", "AIRFLOW__CORE__FERNET_KEY", "SMTP_PASSWD"),
            *("REDIS_AUTH", "DBPASS", "APP_KEY", "SENTRY_DSN", "AZURE_STORAGE_CONNECTION_STRING"),
            *("KEYSTORE_PASSPHRASE", "ENCRYPTION_KEY", "JWT_SIGNING_KEY", "DATABASE_CREDENTIALS"),
            *("DB_PW", "LICENSE_KEY"),
        )
    ),
    *(f"DB_PASS=«{value}»\nTZ=UTC" for value in ("a,b", "a;b", "a&b", "a)b", "it's", "a<b", "a%b")),
    "export DB_PASS='«hunter2»'; run",
    # command lines
    "run --password «hunter2» --rows 5",
    "run --password=«hunter2» --rows 5",
    "run --db-password '«hunter 2»' --rows 5",
    "tool --api-key «hunter2» --rows 5",
    "tool -token «hunter2» -rows 5",
    "['run', '--password', '«hunter2»', '--rows', '5']",
    "curl -u ada:«hunter2» https://x",
    "curl --user 'ada:«hunter2»' https://x",
    "curl -H 'Authorization: «Bearer hunter2»' https://x",
    "sshpass -p «hunter2» ssh ada@h",
    "mysql -u root -p«hunter2» shop",
    "docker login -u ada -p «hunter2» registry",
    "redis-cli -h cache -a «hunter2» ping",
    "sqlcmd -S db -U sa -P «hunter2» -Q 'select 1'",
    "PGPASSWORD=«hunter2» psql -h db -p 5432",
    # private keys
    *(
        f"key is «{pem(kind)}» here"
        for kind in (
            *("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY"),
            *("ENCRYPTED PRIVATE KEY", "PGP PRIVATE KEY BLOCK"),
        )
    ),
    f"private_key: «{pem('PRIVATE KEY')}»\nn: 1",
    f"""{{"data": "«{pem("PRIVATE KEY", chr(92) + "n")}»", "n": 1}}""",
    *(f"'«{pem('PRIVATE KEY', line_end)}»'" for line_end in (r"\\n", " ", "\r\n")),
    f"«{pem('PRIVATE KEY')[:120]}»",
]
"""Texts whose secrets are marked."""


@dataclass
class Connection:
    host: str
    password: str
    options: Any = None


@attrs.define
class Login:
    user: str
    api_key: str


class Pair(NamedTuple):
    user: str
    secret: str


class Parameter(NamedTuple):
    name: str
    value: str


@dataclass
class Option:
    name: str
    value: str


class Model(BaseModel):
    user: str
    password: str
    url: str = "postgresql://ada:hunter2@db"


class Config(BaseModel):
    token: SecretStr
    inner: Model


VALUES: Final[list[tuple[object, str]]] = [
    (Connection("db", S), "db"),
    (Connection("db", "x", {"a": [Connection("in", S)]}), "db in"),
    (Login("ada", S), ""),
    (Pair("ada", S), "ada"),
    (Parameter("password", S), "password"),
    (Option("password", S), "password"),
    (Model(user="ada", password=S), "ada"),
    (Config(token=SecretStr(S), inner=Model(user="ada", password=S)), "ada"),
    (ValueError("cannot connect: password=hunter2 host=db"), "host=db"),
    (ValueError("password", S), "password"),
    (RuntimeError({"headers": {"Authorization": f"Bearer {S}"}}), "headers"),
    (("password", S), "password"),
    (["api_key", S], "api_key"),
    ([("user", "ada"), ("password", S)], "ada password"),
    ([["Authorization", f"Bearer {S}"], ["Accept", "*/*"]], "*/*"),
    ([(b"authorization", f"Bearer {S}".encode()), (b"accept", b"*/*")], "*/*"),
    ({"passwords": {S}}, "passwords"),
    ({"passwords": [S, "x"]}, "passwords"),
    ({"AUTHORIZATION": f"Bearer {S}", "accept": "*/*"}, "*/*"),
    ({b"authorization": S.encode()}, "authorization"),
    ({"HOME": "/root", "DB_PASS": S}, "/root"),
    ([{"name": "DB_PASS", "value": S}, {"name": "TZ", "value": "UTC"}], "DB_PASS TZ UTC"),
    ({"Key": "DB_PASS", "Value": S}, "DB_PASS"),
    ({"value": S, "name": "DB_PASS"}, "DB_PASS"),
    ({"key": "password", "value": {"stringValue": S}}, "password"),
    ({"dbPassword": S, "clientSecret": S, "userPwd": S, "n": "1"}, "1"),
    ({"creds": S, "connStr": S, "sig": S, "se": "2026"}, "2026"),
    (["run", "--password", S, "--rows", "5"], "run --password --rows 5"),
    (["run", "--password=hunter2", "--rows", "5"], "--password --rows 5"),
    (b"password=hunter2 host=db", "host=db"),
    ([b"password=hunter2 host=db"], "host=db"),
    ({"a": [json.dumps({"b": json.dumps({"password": S})})]}, "a b"),
]
"""Values with a secret, and words that must stay."""

ORDINARY: Final = [
    "",
    "the password policy is strict",
    "password policy: at least 12 characters",
    "password authentication failed for user 'ada'",
    "no password was given: ask the owner",
    "prompt tokens: 512, completion tokens: 128, max_tokens=4096",
    "token count: 5, token_count=5, tokens = ['a', 'b']",
    "Unexpected token '}' in JSON at position 5",
    "invalid token ',' in line 5",
    "primary key: id, sort key: created_at, foreign key=order_id",
    "PRIMARY KEY 'id', FOREIGN KEY 'order_id'",
    "cache key 'flow/task/5' and idempotency key: 5",
    "KeyError: 'password'",
    "columns ['id', 'password', 'email']",
    "sa.Column('token', sa.String())",
    "secrets 'db' and 'mail' not found",
    "has_password=True, token=None, 'secret': null, auth=False",
    "def connect(user: str, password: str, token: bytes) -> None",
    "author: ada, authority=x, monkey=1, compass: north, bypass=1, passengers: 5",
    "pass: 12, fail: 3, session: <Session>, signature: (a, b)",
    "self.session = session, signature=inspect",
    "PRIVATE KEY and -----BEGIN CERTIFICATE----- are no secrets",
    "https://host:80/x?mail=me@here",
    "https://host/x@v1 and https://medium.com/@ada",
    "oci://registry:5000/image@sha256:0f1e2d3c",
    "ssh://git@github.com/org/repo and git@github.com:org/repo",
    "http://[::1]:8080/x@y",
    "file:///C:/data/x@y.csv",
    "mail ada@example.org: it is done",
    "Created flow run 0197a3c2-7d1e-7c6a-9b1f-3f6f3d1c2b4a for flow 'etl'",
    "trace 0af7651916cd43dd8448eb211c80319c, span b7ad6b7169203331",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "commit 4cd13344b4b4af2dca8f4f6e24938cab83a1c0de",
    "wrote s3://bucket/orders/dt=2026-11-27/part-00000-3f6f3d1c.snappy.parquet",
    "test_that_a_long_name_is_no_token and npm_config_registry_of_the_team",
    "HF_HUB_ENABLE_HF_TRANSFER_IS_SET_AND_LONG_ENOUGH",
    "task-sk-orders-of-a-very-long-name-with-dashes",
    "Basic authentication-of-a-very-long-name is off",
    "global-settings-of-the-whole-team and glossary-of-the-whole-company",
    "bearer tokens-are-accepted-by-this-endpoint",
    "docker run -u 1000:1000 -p 8080:80 image",
    "ssh -p 22 host; psql -h db -p 5432; mkdir -p /data/a",
    "pytest -p no:cacheprovider",
    "a - b - password - c",
    "rows=5 table=orders seconds=0.25 state=Completed",
    "loaded 1,234 rows into orders at 2026-11-27 21:59:03.123",
    "<class 'x.Token'>",
    "[redacted]",
]
"""Texts that only look as if they had a secret."""
