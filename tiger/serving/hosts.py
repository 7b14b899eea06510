"""Host and Origin: which names a request may use for this service, and whose pages may send it.

Without that, any web page that a user of this machine opens could change the catalog: directly, or by a name of its
own that it lets point to this machine (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tiger.serving.settings import EdgeSettings

READS = ("GET", "HEAD", "OPTIONS")
LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class HostRules:
    """Names that the service answers to, and origins that may change it.

    Args:
        hosts: lower-case names and addresses without ports; ``*.shop.example`` is any name below, ``*`` any at all.
        origins: other sites whose pages may send requests that are no reads; ``*``: any.
        any_address: whether any IP address will do: nobody else can make a page of one.
    """

    hosts: tuple[str, ...] = LOCAL
    origins: tuple[str, ...] = ()
    any_address: bool = False

    @classmethod
    def from_settings(cls, settings: EdgeSettings) -> HostRules:
        """The rules before it is known on which address the service listens."""
        given = [name.lower().strip("[]") for name in settings.allowed_hosts]
        return cls((*LOCAL, *given), tuple(name.lower() for name in settings.allowed_origins))

    def bound_to(self, address: str) -> HostRules:
        """These rules and the address that the service listens on; where that is all of the machine's, its name and
        any IP address."""
        if address in ("", "0.0.0.0", "::"):
            return replace(self, hosts=(*self.hosts, socket.gethostname().lower()), any_address=True)
        return replace(self, hosts=(*self.hosts, address.lower()))

    def refusal(self, method: str, headers: Sequence[tuple[bytes, bytes]]) -> str | None:
        """Why a request with these headers is refused; None: it is not."""
        hosts = [value.decode("latin-1").lower() for name, value in headers if name == b"host"]
        if len(hosts) != 1:
            return "one Host header is needed"
        if not self._is_ours(hosts[0]):
            return f"this service is not {hosts[0][:200]!r}: start it with --allowed_hosts if it should be"
        for name, value in headers:
            origin = value.decode("latin-1").lower()
            if name != b"origin" or method in READS or "*" in self.origins or origin in self.origins:
                continue
            if origin.partition("://")[2] != hosts[0]:
                return (
                    f"pages of {origin[:200]!r} may not do that: start the service with --allowed_origins if they may"
                )
        return None

    def _is_ours(self, host: str) -> bool:
        name = _without_port(host)
        if "*" in self.hosts or name in self.hosts:
            return True
        if any(one.startswith("*.") and name.endswith(one[1:]) for one in self.hosts):
            return True
        return self.any_address and _is_address(name)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
