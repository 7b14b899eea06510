"""Access to the service: who needs the token, and on which addresses it may listen without one."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tiger.serving.hosts import READS
from tiger.serving.settings import AccessSettings, ServiceSettings
from tiger.utils.errors import DataError

ANSWERS = ("/recommend", "/rank")  # they change nothing, though they are no reads to HTTP
# They tell nothing of the catalog: probes can't send a token, and a browser that opens a page does not.
OPEN = ("/livez", "/readyz", "/healthz", "/", "/docs", "/openapi.json")
MAX_TOKEN_FILE = 4096  # bytes
TOKEN_VARIABLE = "TIGER_TOKEN"


@dataclass(frozen=True)
class AccessRules:
    """Which requests need a bearer token.

    Args:
        digest: SHA-256 of the token; None: no request needs one.
        everything: whether answers need it as well as updates.
    """

    digest: bytes | None = None
    everything: bool = False

    @classmethod
    def from_settings(cls, settings: AccessSettings) -> AccessRules:
        """The rules of a service."""
        if settings.token is None:
            return cls()
        return cls(hashlib.sha256(settings.token.encode()).digest(), settings.token_for == "all")

    def refusal(self, method: str, path: str, headers: Sequence[tuple[bytes, bytes]]) -> str | None:
        """Why a request is refused; None: it is not. All that is not known to change nothing counts as an update."""
        if self.everything:
            free = method in READS and path in OPEN
        else:
            free = method in READS or path in ANSWERS
        if self.digest is None or free:
            return None
        if self.holds_token(headers):
            return None
        if sum(name == b"authorization" for name, _ in headers) != 1:
            return "this needs the service's token: send the header authorization: Bearer TOKEN"
        return "the token is wrong"

    def holds_token(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Whether a request has sent the right token; never where the service has none."""
        given = [value for name, value in headers if name == b"authorization"]
        if self.digest is None or len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        # Digests are of one length: the time that it takes tells nothing of the token.
        right = hmac.compare_digest(hashlib.sha256(token.strip()).digest(), self.digest)
        return right and scheme.lower() == b"bearer"


def read_token(file: str | os.PathLike | None, environment: Mapping[str, str]) -> str | None:
    """The token of a file or, without one, of ``TIGER_TOKEN``; None: there is none.

    Raises:
        DataError: the file can't be read, or is empty.
    """
    if file is None:
        return environment.get(TOKEN_VARIABLE) or None
    try:
        if not Path(file).is_file():
            raise DataError(f"{file} is no file: write the token into one, on one line.")
        with open(file, "rb") as opened:
            content = opened.read(MAX_TOKEN_FILE + 1)
        token = content.decode("ascii").strip()
    except OSError as error:
        raise DataError(f"the token file {file} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: a token has ASCII characters only. Make another one.") from error
    if not token or len(content) > MAX_TOKEN_FILE:
        raise DataError(f"{file} is {'too long' if token else 'empty'}: write the token into it, on one line.")
    return token


def check_exposure(host: str, settings: ServiceSettings) -> None:
    """Refuse to let everybody on the network change the catalog.

    Raises:
        DataError: the address is not this machine's own, updates are allowed, and there is no token.
    """
    if settings.read_only or settings.access.token is not None or is_loopback(host):
        return
    raise DataError(
        f"on {host or 'all addresses'}, everybody who reaches the service could change its catalog: give --token_file "
        f"or {TOKEN_VARIABLE}, or --read_only, or --insecure if a gateway in front of it asks who they are."
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. A name other than localhost may lead anywhere."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
