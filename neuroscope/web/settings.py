"""Settings of the interface: whom it serves, with which models, and within which limits."""

import ipaddress
import secrets
from dataclasses import dataclass, field

from neuroscope.errors import NeuroscopeError
from neuroscope.options import DtypeChoice

HEALTH = "/api/health"
"""Path of a request that needs no token and tells whether the server works."""


@dataclass(frozen=True)
class Limits:
    """Limits on requests; a request beyond one of them is refused with the limit."""

    prompts: int = 64
    """Prompts of one probe."""
    characters: int = 20_000
    """Characters of one prompt."""
    body: int = 2**20
    """Bytes of the body of a request."""
    requests_per_minute: int = 3000
    """Requests of one client in a minute."""
    waiting: int = 100
    """Requests that wait for a model at once."""
    probe_bytes: int = 2**29
    """Bytes of the values of one probe."""
    kept_bytes: int = 2**30
    """Bytes of the probes that are kept in memory; the one unused for longest goes first."""
    models: int = 2
    """Models that are kept in memory."""


@dataclass(frozen=True)
class Settings:
    """Settings of the server."""

    host: str = "127.0.0.1"
    port: int = 5090
    models: tuple[str, ...] = ()
    """Models that may be asked for; empty for any, which is refused beyond this machine."""
    default_model: str = "minilm"
    device: str = "auto"
    dtype: DtypeChoice = "auto"
    token: str = field(default="", repr=False)
    """Secret that a client has to know; empty for none."""
    trusted_proxies: str = "127.0.0.1"
    """Addresses of the proxies whose headers tell the address of a client."""
    behind_proxy: bool = False
    """Whether a proxy in front of the server decides who may use it."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which the server is reached, besides those of this machine."""
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not self.token.isascii():
            raise NeuroscopeError(
                "the token has characters that are not ASCII", remedy="choose another token"
            )
        if self.is_local and not (self.behind_proxy or self.allowed_hosts):
            return
        if not (self.token or self.behind_proxy):
            raise NeuroscopeError(
                "other machines can reach the server, and it is not protected",
                remedy="set NEUROSCOPE_UI_TOKEN to a secret, or name --behind-proxy if a proxy"
                " decides who may use it",
            )
        if not self.models:
            raise NeuroscopeError(
                "other machines can reach the server, and could load any model",
                remedy="name the models that may be used with --model",
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def shown_host(self) -> str:
        """Name of the server in an address that a browser on this machine can open."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"[{host}]" if ":" in host else host

    @property
    def hosts(self) -> frozenset[str]:
        """Values of the header Host, without a port, that are accepted."""
        own = f"[{self.host}]" if ":" in self.host else self.host
        names = {"127.0.0.1", "localhost", "[::1]", own, *self.allowed_hosts}
        return frozenset(name.lower() for name in names)

    def is_token(self, value: str) -> bool:
        """Return whether a value is the secret, in constant time."""
        return secrets.compare_digest(value.encode(), self.token.encode())

    def check_model(self, name: str) -> str:
        """Return the name of a model that may be used; empty stands for the usual one.

        Raises:
            NeuroscopeError: the model may not be used.
        """
        name = name or self.default_model
        if self.models and name not in self.models:
            raise NeuroscopeError(
                f"the model '{name}' may not be used here",
                remedy=f"choose from {', '.join(self.models)}",
            )
        return name
