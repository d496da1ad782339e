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
_USER_INFO = re.compile(
    r"""(?<=://)(
        [^\s/?\#@]*(?:@\S*)?  # up to the last @, because a password may contain some
        | [^\s/?\#@:\[]*:(?!\d*(?:[/?\#]|\W*(?:\s|$))).*  # no port, but / ? # or a space
    )@""",
    re.VERBOSE,
)
"""User name and password of an address, whatever characters the password contains."""
_QUERY = re.compile(
    r"(?i)([?&;](?:[\w-]*(?:password|passwd|pwd|token|secret|key|auth|signature)[\w-]*)=)[^&;#\s'\"<>)]+"
)


def redacted(text: str) -> str:
    """Return a text in which the passwords and tokens of addresses and settings are hidden.

    >>> redacted("cannot reach http://me:secret@host/?token=abc")
    'cannot reach http://me:***@host/?token=***'
    """
    for value in _secret_values():
        text = text.replace(value, _HIDDEN)
    text = _USER_INFO.sub(_hidden_user_info, text)
    return _QUERY.sub(rf"\1{_HIDDEN}", text)


def public_address(address: str) -> str:
    """Return an address without user name, password and secret values, to be opened in a browser.

    >>> public_address("http://me:secret@host:5000/path")
    'http://host:5000/path'
    """
    return _QUERY.sub(rf"\1{_HIDDEN}", _USER_INFO.sub("", address))


def split_login(address: str) -> tuple[str, str]:
    """Return an address without its login, and the login as `user:password`, which may be empty.

    >>> split_login("http://me:p%40ss@host:4200/api")
    ('http://host:4200/api', 'me:p@ss')
    """
    match = _USER_INFO.search(address)
    return (_USER_INFO.sub("", address), unquote(match[1])) if match else (address, "")


def _hidden_user_info(match: re.Match[str]) -> str:
    """Return a user name with a hidden password; a user without a password may be a token."""
    user, colon, _ = match[1].partition(":")
    return f"{user}:{_HIDDEN}@" if colon else f"{_HIDDEN}@"


def _secret_values() -> list[str]:
    """Return the secret values of the environment, as they are and unquoted, the longest first."""
    values = {os.environ.get(name, "") for name in _SECRET_SETTINGS}
    for name in _ADDRESSES:
        address = os.environ.get(name, "")
        if match := _USER_INFO.search(address if "://" in address else f"://{address}"):
            user, colon, password = match[1].partition(":")
            secret = password if colon else user
            values |= {secret, unquote(secret)}
    return sorted((value for value in values if len(value) >= _SHORTEST), key=len, reverse=True)
