"""Settings of the service: batching and permissions, the limits at its edge and of a client, access and the log."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, field
from pathlib import Path

from tiger.serving.schemas import MAX_HISTORIES
from tiger.utils.errors import DataError

TOKEN_FOR = ("updates", "all")
MIN_TOKEN = 16  # characters: 64 bits if they are hexadecimal digits
LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class EdgeSettings:
    """Limits of connections, and who may ask. The defaults are set by hand, not tuned.

    Args:
        allowed_hosts: names that the ``Host`` header may have besides those of this machine and the address that the
            service listens on: ``shop.example``, ``*.shop.example``, or ``*`` for any.
        allowed_origins: other sites whose pages may send requests that are no reads, as browsers name them:
            ``https://shop.example``, or ``*`` for any.
        max_connections: open at a time. One more takes the place of the one that has kept the service waiting longest;
            where none has for a second, or all are being answered, it gets status 503. As many again may be open so.
        keep_alive_seconds: that a connection may be open without a request.
        receive_seconds: that the head of a request may take, and again its body; and the client to read the answer.
        grace_seconds: that requests have to be answered after the service was told to stop.

    Raises:
        DataError: a number is out of range, or a name has a scheme or port that it must not have, or lacks it.
    """

    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    max_connections: int = 512
    keep_alive_seconds: float = 5.0
    receive_seconds: float = 15.0
    grace_seconds: float = 20.0

    def __post_init__(self):
        if self.max_connections < 1 or self.grace_seconds < 0:
            raise DataError("max_connections must be at least 1 and grace_seconds at least 0.")
        if not (self.keep_alive_seconds > 0 and self.receive_seconds > 0):
            raise DataError("keep_alive_seconds and receive_seconds must be above 0.")
        for name in self.allowed_hosts:
            bare = name.strip("[]") if name.startswith("[") else name
            if not name or "/" in name or (":" in bare and bare.count(":") == 1):
                raise DataError(f"allowed host {name!r} must be a name without scheme and port, such as shop.example.")
        for name in self.allowed_origins:
            if name != "*" and (not name.startswith(("http://", "https://")) or "/" in name.split("://")[1]):
                raise DataError(f"allowed origin {name!r} must be a scheme and a host, such as https://shop.example.")


@dataclass(frozen=True)
class AccessSettings:
    """The token of the service, and what needs it.

    Args:
        token: that a request sends as ``Authorization: Bearer TOKEN``; None: nothing needs one.
        token_for: ``updates`` (of the catalog and of the model) or ``all``: answers, ``/health`` and ``/metrics`` too.

    Raises:
        DataError: the token is short or has characters that a header can't hold, or ``token_for`` is something else.
    """

    token: str | None = field(default=None, repr=False)
    token_for: str = "updates"

    def __post_init__(self):
        if self.token_for not in TOKEN_FOR:
            raise DataError(f"token_for must be {' or '.join(TOKEN_FOR)}, got {self.token_for!r}.")
        if self.token is None:
            if self.token_for == "all":
                raise DataError("token_for is all, and there is no token: give --token_file or TIGER_TOKEN.")
        elif len(self.token) < MIN_TOKEN:
            raise DataError(
                f"the token must have at least {MIN_TOKEN} characters: make one with openssl rand -hex 32."
            )
        elif not all("!" <= character <= "~" for character in self.token):
            raise DataError("the token must be one line of ASCII characters without spaces.")


@dataclass(frozen=True)
class ClientSettings:
    """Requests that one client may send.

    Args:
        client_rate: requests a second; 0: as many as it likes. That is the default, because behind a gateway that is
            not in ``trusted_proxies`` all clients have one address, and because the queue is bounded anyway.
        client_burst: requests that it may send at once.
        trusted_proxies: addresses and networks, such as ``10.0.0.0/8``, whose ``X-Forwarded-For`` header is believed.

    Raises:
        DataError: a number is out of range, or a proxy is no address or network.
    """

    client_rate: float = 0.0
    client_burst: int = 20
    trusted_proxies: tuple[str, ...] = ()

    def __post_init__(self):
        if not 0 <= self.client_rate < math.inf or self.client_burst < 1:
            raise DataError("client_rate must be at least 0 and client_burst at least 1.")
        for name in self.trusted_proxies:
            try:
                ipaddress.ip_network(name, strict=False)
            except ValueError as error:
                raise DataError(
                    f"trusted proxy {name!r} must be an address or a network, such as 10.0.0.5 or 10.0.0.0/8."
                ) from error


@dataclass(frozen=True)
class LogSettings:
    """Form and level of the log.

    Args:
        form: ``text`` or ``json``, one object a line.
        level: ``debug`` (probes and ``/metrics`` as well), ``info`` (all other requests), ``warning`` (refused ones)
            or ``error`` (failed ones).

    Raises:
        DataError: it is something else.
    """

    form: str = "text"
    level: str = "info"

    def __post_init__(self):
        if self.form not in LOG_FORMATS or self.level not in LOG_LEVELS:
            raise DataError(
                f"log_format must be one of {', '.join(LOG_FORMATS)} and log_level one of {', '.join(LOG_LEVELS)}, "
                f"got {self.form!r} and {self.level!r}."
            )


@dataclass(frozen=True)
class ServiceSettings:
    """Batching and permissions of the service.

    Args:
        max_batch: histories per batch; None: 16 on a CPU, 256 on a GPU.
        max_delay_ms: maximum time, in milliseconds, that a request waits for others in its batch while a core is free.
        max_queue: histories that may wait; a request beyond that is refused with status 429.
        bf16: matrix products in bfloat16: faster on processors that have them; scores differ in the third digit. None:
            on a GPU that has them.
        cuda_graphs: record searches at the start and replay them; None: on an NVIDIA GPU.
        read_only: refuse updates of the catalog.
        save: directory to which each update is written before it takes effect; None: updates last as long as the
            process. It has to hold what the recommender was read from, or nothing: see
            :class:`tiger.serving.live.LiveRecommender`.
        update_log: folder, or URL of object storage, of the log that several services share: see
            :class:`tiger.serving.update_log.UpdateLog`; None: updates are this service's alone.
        edge: limits of connections, and who may ask.
        access: the token, and what needs it.
        clients: requests that one client may send.
        log: form and level of the log.

    Raises:
        DataError: a number is out of range.
    """

    max_batch: int | None = None
    max_delay_ms: float = 5.0
    max_queue: int = 1024
    bf16: bool | None = None
    cuda_graphs: bool | None = None
    read_only: bool = False
    save: Path | None = None
    update_log: str | None = None
    edge: EdgeSettings = field(default_factory=EdgeSettings)
    access: AccessSettings = field(default_factory=AccessSettings)
    clients: ClientSettings = field(default_factory=ClientSettings)
    log: LogSettings = field(default_factory=LogSettings)

    def __post_init__(self):
        if (self.max_batch is not None and self.max_batch < 1) or not 0 <= self.max_delay_ms < math.inf:
            raise DataError("max_batch must be at least 1 and max_delay_ms at least 0.")
        if self.max_queue < MAX_HISTORIES:
            raise DataError(f"max_queue must be at least {MAX_HISTORIES}: a request may hold as many histories.")
        if self.save is not None and self.update_log is not None:
            raise DataError("save and update_log both keep updates: give one of them.")
