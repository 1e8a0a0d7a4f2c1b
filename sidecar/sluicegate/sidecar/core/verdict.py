# SPDX-License-Identifier: Apache-2.0
"""What one provider response was."""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.wire.values import QuotaRejection
from sluicegate.wire.words import ErrorClass


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one provider response was. `quota` only with QUOTA; `retry_after`: what overload and server errors asked."""

    error_class: ErrorClass
    quota: QuotaRejection | None = None
    retry_after: float | None = None

    @property
    def kind(self) -> str:
        """The class, of a quota which (QuotaRejection.kind): for counting and logging apart."""
        return str(self.error_class) if self.quota is None else self.quota.kind

    @property
    def retriable(self) -> bool:
        """Whether the broker may send the call again, or elsewhere, while nothing has reached the app."""
        return self.error_class in _RETRIABLE


_RETRIABLE = frozenset(
    {ErrorClass.QUOTA, ErrorClass.OVERLOAD, ErrorClass.SERVER, ErrorClass.NETWORK, ErrorClass.BILLING}
)

SUCCESS = Verdict(ErrorClass.NONE)
NETWORK = Verdict(ErrorClass.NETWORK)
NOT_SENT = Verdict(ErrorClass.INVALID)
"""Refused here: it says nothing of the pool."""
