"""Addresses: as people may see them, without their passwords, and that of a database file."""

import re
from ipaddress import ip_address
from pathlib import Path

_HIDDEN = "***"
# Greedy up to the last @, since a password may hold one itself, and any quote, slash or # that nobody escaped.
_WEB_HOST = r"(?:\[[^\s\]/@]*\](?::\d+)?|[^\s/?#:@\[\]]*:\d+)[/?#]"  # an @ after it belongs to a path, not to a user
_WEB_USER = re.compile(rf"\b((?:https?|wss?)://(?!{_WEB_HOST})[^\s/?#:@]*):\S+@", re.IGNORECASE)
_WEB_TOKEN = re.compile(r"\b((?:https?|wss?)://)[^\s/?#:@\"'<>]+@", re.IGNORECASE)
_OTHER_USER = re.compile(r"\b((?!https?:|wss?:)[a-z][a-z0-9+.-]*://[^\s/?#:@]*):\S+@", re.IGNORECASE)
_BARE_USER = re.compile(r"([^\s/?#:@\"'<>]*):(?!/)\S+@([^\s/@]+(?:/\S*)?)")
_PARAMETER = re.compile(
    r"""([?&;](?:
        [\w.-]*(?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|credential|signature)[\w.-]*
        |pass|pw|key|sig|auth|odbc_connect
    )=)(?:[^&;\s#"'<>]|'(?=\w))+""",
    re.IGNORECASE | re.VERBOSE,
)


def masked(text: str) -> str:
    """``text`` with ``***`` for the password, and for every secret query parameter, of each URL in it.

    What stands alone before the @ of a web address is taken for a token and hidden too. An address without a scheme,
    ``user:password@host:port``, is known as such only where it is the whole text.
    """
    bare = _BARE_USER.fullmatch(text)
    if bare:
        text = f"{bare[1]}:{_HIDDEN}@{bare[2]}"
    text = _WEB_TOKEN.sub(rf"\1{_HIDDEN}@", text)
    text = _WEB_USER.sub(rf"\1:{_HIDDEN}@", text)
    text = _OTHER_USER.sub(rf"\1:{_HIDDEN}@", text)
    return _PARAMETER.sub(rf"\1{_HIDDEN}", text)


def is_this_machine(host: str | None) -> bool:
    """Whether a host name is a loopback one, which a proxy cannot reach; no host, or 0.0.0.0, is this machine too."""
    name = (host or "localhost").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def sqlite_url(file: Path) -> str:
    """SQLAlchemy's URL of a database file; a path with a question mark is written as SQLite's own URI."""
    if "?" not in str(file):
        return f"sqlite:///{file}"
    # with the driver's name, or MLflow makes folders called file: for it
    return f"sqlite+pysqlite:///{file.absolute().as_uri().replace('file://', 'file:', 1)}?uri=true"
