# SPDX-License-Identifier: Apache-2.0
"""A keyring in a Secret, kept fresh by every replica that uses it.

The Secret exists before (the chart makes it, empty), since RBAC cannot bound `create` by name. Whoever finds it empty
or something in it due writes the renewed keyring with the resourceVersion that it read; of two that try at once the
API server lets one win, and the other reads again. So there is no leader and no lock.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import logging
from collections.abc import Awaitable, Callable, Sequence

from sluicegate.kube.certificates import Keyring, Pair, renew
from sluicegate.kube.client import ApiError, Client, KubeError, Object, ObjectRef

log = logging.getLogger(__name__)

_KEYS = ("ca.crt", "ca.key", "next-ca.crt", "next-ca.key", "bundle.crt", "tls.crt", "tls.key")
_ATTEMPTS = 5
_EVERY = 60.0
_AGAIN = 5.0


async def keep(client: Client, secret: ObjectRef, name: str, hosts: Sequence[str], now: dt.datetime) -> Keyring:
    """The keyring of `secret` at `now`, renewed there where due.

    Raises KubeError, also when others win each time or what it holds cannot be read: it is not written over, since
    pods that run may trust an authority that is still in it.
    """
    for _ in range(_ATTEMPTS):
        held = await client.get(secret.secret)
        try:
            ring = read(held)
            # Keys are made beside the event loop: they cost milliseconds.
            fresh = await asyncio.to_thread(renew, ring, name, hosts, now)
        except (ValueError, TypeError) as error:
            raise KubeError(
                f"Secret {secret} holds certificates or keys that cannot be read ({error}): set it right, or empty its"
                " data to have new ones made"
            ) from None
        if fresh is ring:
            return fresh
        held["data"] = {key: base64.b64encode(value).decode() for key, value in _data(fresh).items()}
        try:
            await client.replace(secret.secret, held)
        except ApiError as error:
            if error.status == 409:
                continue
            raise
        log.info("certificates renewed", extra={"secret": secret.name, "until": fresh.served.ends.isoformat()})
        return fresh
    raise KubeError(f"Secret {secret} changed under each of {_ATTEMPTS} attempts")


async def follow(
    client: Client,
    secret: ObjectRef,
    name: str,
    hosts: Sequence[str],
    held: Callable[[Keyring], Awaitable[None]],
    every: float = _EVERY,
) -> None:
    """Keeps `secret` for as long as the task lives. Each check, changed or not, ends with `held` of its keyring, so
    that whatever `held` sets right is set right again when somebody undoes it."""
    while True:
        pause = every
        try:
            await held(await keep(client, secret, name, hosts, dt.datetime.now(dt.UTC)))
        except (KubeError, OSError) as error:  # a pair that does not belong together is an ssl.SSLError
            log.warning("certificates could not be kept: %s", error)
            pause = min(every, _AGAIN)
        await asyncio.sleep(pause)


def read(secret: Object) -> Keyring | None:
    """The keyring that a Secret holds; None where it is empty or incomplete."""
    data = {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items() if key in _KEYS}
    if not all(data.get(key) for key in ("ca.crt", "ca.key", "bundle.crt", "tls.crt", "tls.key")):
        return None
    following = Pair(data["next-ca.crt"], data["next-ca.key"]) if data.get("next-ca.key") else None
    return Keyring(
        Pair(data["ca.crt"], data["ca.key"]), Pair(data["tls.crt"], data["tls.key"]), data["bundle.crt"], following
    )


def _data(ring: Keyring) -> dict[str, bytes]:
    data = {
        "ca.crt": ring.authority.certificate,
        "ca.key": ring.authority.key,
        "bundle.crt": ring.bundle,
        "tls.crt": ring.served.certificate,
        "tls.key": ring.served.key,
    }
    if ring.next_authority is not None:
        data |= {"next-ca.crt": ring.next_authority.certificate, "next-ca.key": ring.next_authority.key}
    return data
