"""Removal of passwords and tokens from what is shown, written or recorded."""

import os
import re
from urllib.parse import unquote

_SECRET_SETTINGS = (
    *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PREFECT_API_AUTH_STRING"),
    *("PREFECT_API_KEY", "HF_TOKEN"),
)
"""Environment variables whose values are secret."""
_ADDRESSES = (
    *("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "PREFECT_API_URL", "HF_ENDPOINT"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
)
"""Environment variables with addresses that may contain a password."""
_SHORTEST = 4  # characters of a value that is searched for; shorter ones occur in other words
_HIDDEN = "***"
_PLACEHOLDERS = ("", "x", "x-oauth-basic", "api_token", "unused", "_")
"""Passwords that mean nothing: the user name before them is a token."""
_USER = r"[^\s/?\#@:\[]*"
_HOST = rf"(?:localhost|{_USER}\.{_USER}):"  # a name with a dot is rather a host than a user
_PORT = r"\d*(?:[/?\#]|\W*(?:\s|$))"
_USER_INFO = re.compile(
    rf"""(?<=://)(
        [^\s/?\#@]*(?:@\S*)?  # up to the last @, because a password may contain some
        | (?!{_HOST}){_USER}:(?!{_PORT}).*  # / ? # or a space in the password
        | {_USER}:(?!{_PORT})\S*
        | (?!(?<=http://){_HOST}|(?<=https://){_HOST}){_USER}:\d+[/?\#]\S*  # digits, then / ? #
    )@""",
    re.VERBOSE,
)
"""User name and password of an address, whatever characters the password contains.

`http://host.org:5000/a@b` has a port and a path; `http://me:1234/a@b` and, with any name,
`postgresql://me:1234/a@b` are taken for a password, because a path with an @ is rarer there.
"""
_KEY = re.compile(
    r"""(?:(?<=[?&;\#=+])|(?<=%[0-9A-Fa-f]{2}))  # a separator, or a quoted one
    (?P<name>[A-Za-z_][\w.\[\]-]*)(?P<equals>=|%(?:25)*3[Dd])
    |(?<![^\s"'(,;])(?P<word>\w*(?:password|passwd|passphrase)\s?=\s?)  # in a DSN or a call
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Key with a value: in the query or fragment of an address, or a password anywhere."""
_VALUE = re.compile(
    r"""'(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*" | \{(?:[^}]|\}\})*\}
    | (?:[^&;\#\s'"<>)] | ['")](?=\w))+""",
    re.VERBOSE,
)
_QUOTED_VALUE = re.compile(
    r"""%(?:25)*7B (?:(?!%(?:25)*7D)\S | (?:%(?:25)*7D){2})* %(?:25)*7D  # in quoted braces
    | (?:(?!%(?:25)*(?:3B|26)) [^&;\#\s'"<>)])+""",
    re.VERBOSE | re.IGNORECASE,
)
_SECRET_PART = re.compile(
    r"""(?i)pass(?:word|wd|phrase|code)|pwd|secret(?!ar)|token(?!i[sz])|credential|signature
    |(?:api|access|account|app|auth|client|encryption|license|master|private|service|session
       |shared|signing|ss[hl]|storage|subscription|user)keys?(?:id)?$
    |(?:db|ftp|http|my|proxy|smtp|sql|user)pass$""",
    re.VERBOSE,
)
"""What makes a key secret wherever it occurs in its name."""
_SECRET_WORDS = frozenset(
    "auth authorization bearer cred creds jwt key keys oauth otp pass pw sas sig".split()
)
"""What makes a key secret as a word of its own: `api-key` and `apiKey`, but not `keyboard`."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def redacted(text: str) -> str:
    """Return a text in which the passwords and tokens of addresses and settings are hidden.

    >>> redacted("cannot reach http://me:secret@host/?token=abc")
    'cannot reach http://me:***@host/?token=***'
    """
    for value in _secret_values():
        text = text.replace(value, _HIDDEN)
    return _without_values(_USER_INFO.sub(_hidden_user_info, text))


def public_address(address: str) -> str:
    """Return an address without user name, password and secret values, to be opened in a browser.

    >>> public_address("http://me:secret@host:5000/path")
    'http://host:5000/path'
    """
    return _without_values(_USER_INFO.sub("", address))


def split_login(address: str) -> tuple[str, str]:
    """Return an address without its login, and the login as `user:password`, which may be empty.

    >>> split_login("http://me:p%40ss@host:4200/api")
    ('http://host:4200/api', 'me:p@ss')
    """
    match = _USER_INFO.search(address)
    return (_USER_INFO.sub("", address), unquote(match[1])) if match else (address, "")


def _hidden_user_info(match: re.Match[str]) -> str:
    """Return a user name with a hidden password, or a hidden token."""
    user, colon, _ = match[1].partition(":")
    is_token = not colon or _secret_of(match[1]) == user
    return f"{_HIDDEN}@" if is_token else f"{user}:{_HIDDEN}@"


def _secret_of(login: str) -> str:
    """Return the secret of a login: the password, or a user name without one, a token."""
    user, _, password = login.partition(":")
    return user if password.lower() in _PLACEHOLDERS else password


def _without_values(text: str) -> str:
    """Return a text in which the values of secret keys are hidden."""
    parts, start = [], 0
    while key := _KEY.search(text, start):
        parts.append(text[start : key.end()])
        start = key.end()
        if key["word"] or _is_secret(key["name"]):
            is_quoted = (key["equals"] or "=") != "="
            if value := (_QUOTED_VALUE if is_quoted else _VALUE).match(text, start):
                parts.append(_HIDDEN)
                start = value.end()
    return "".join([*parts, text[start:]])


def _is_secret(key: str) -> bool:
    """Return whether the value of a key is secret.

    >>> _is_secret("AccountKey"), _is_secret("sig"), _is_secret("keyboard")
    (True, True, False)
    """
    words = {word.lower() for word in _WORD.findall(key)}
    return bool(_SECRET_PART.search(key) or words & _SECRET_WORDS)


def _secret_values() -> list[str]:
    """Return the secret values of the environment, as they are and unquoted, the longest first."""
    values = {os.environ.get(name, "") for name in _SECRET_SETTINGS}
    for name in _ADDRESSES:
        address = os.environ.get(name, "")
        if match := _USER_INFO.search(address if "://" in address else f"://{address}"):
            secret = _secret_of(match[1])
            values |= {secret, unquote(secret)}
    return sorted((value for value in values if len(value) >= _SHORTEST), key=len, reverse=True)
