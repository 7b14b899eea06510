"""Requests a second of each client, as token buckets whose number is bounded."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

from tiger.serving.settings import ClientSettings

# Some 10 MB. Beyond that, who was quiet longest is forgotten, and may send a burst again. Not tuned.
MAX_CLIENTS = 65_536
TOKEN_HOLDER = "token"  # no address reads like that
# Of an IPv6 address: a household or a rented machine has all addresses that begin alike.
IPV6_PREFIX = 64


class RateLimit:
    """Decides whether a client's request is answered now.

    Each client has ``burst`` requests at once, and gets ``rate`` a second back. Stored is a single time per client, at
    which its bucket is full again (GCRA, the generic cell rate algorithm of ATM networks). Not for several threads.

    Args:
        rate: requests a second, above 0.
        burst: requests at once, at least 1.
        clock: seconds, never going back.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic):
        self._interval, self._allowance = 1 / rate, (burst - 1) / rate
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    @classmethod
    def from_settings(cls, settings: ClientSettings) -> RateLimit | None:
        """The limit of a service; None: it has none."""
        return cls(settings.client_rate, settings.client_burst) if settings.client_rate > 0 else None

    def __len__(self) -> int:
        """Number of clients that are remembered."""
        return len(self._full_at)

    def seconds_to_wait(self, client: str) -> float:
        """Count a request, unless it comes too early: then it is not counted.

        Args:
            client: of :func:`client_name`.

        Returns:
            Seconds until a request of this client would be answered; 0: this one is.
        """
        now = self._clock()
        self._forget(now)
        full_at = max(self._full_at.get(client, now), now)
        wait = full_at - now - self._allowance
        if wait > 1e-9:  # rounding of times
            return wait
        self._full_at[client] = full_at + self._interval
        self._full_at.move_to_end(client)
        return 0.0

    def _forget(self, now: float) -> None:
        """Forget clients whose buckets are full, from the longest quiet on; two per request, so that none waits."""
        for _ in range(2):
            if not self._full_at:
                return
            client, full_at = next(iter(self._full_at.items()))
            if full_at > now and len(self._full_at) < MAX_CLIENTS:
                return
            del self._full_at[client]


def client_name(host: str | None, holds_token: bool) -> str:
    """Who a request is counted for: the holders of the token together, all others by address.

    Args:
        host: address of the connection, or what a trusted proxy says; None: unknown.
        holds_token: whether the request has sent the right token. A wrong one does not count, or each guess would be
            a new client.
    """
    if holds_token:
        return TOKEN_HOLDER
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return f"?{(host or '')[:64]}"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), IPV6_PREFIX), strict=False))
