# SPDX-License-Identifier: Apache-2.0
"""What each tenant got since the broker started, over all pools. Bounded: whom nobody saw longest is forgotten."""

from __future__ import annotations

from sluicegate.broker.core.effects import Decision
from sluicegate.wire.words import Outcome

_TENANTS = 20_000
_GRANTS = frozenset({Outcome.GRANTED, Outcome.FALLBACK_MODEL, Outcome.FALLBACK_POOL})


class Account:
    """One tenant's sums."""

    __slots__ = ("granted", "rejected", "tier", "tokens_used", "weight")

    def __init__(self) -> None:
        self.tier = ""
        self.weight = 1
        self.granted = 0
        self.rejected = 0
        self.tokens_used = 0


class Ledger:
    """Accounts by tenant name."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}

    def seen(self, tenant: str, tier: str, weight: int) -> None:
        """A call of `tenant` came, whose policy says this tier and weight."""
        account = self._account(tenant)
        account.tier = tier
        account.weight = weight

    def decided(self, decision: Decision) -> None:
        """Count a decision: every grant, every final answer that was none."""
        account = self._account(decision.party.tenant)
        if decision.outcome in _GRANTS:
            account.granted += 1
        elif decision.outcome is not Outcome.CANCELLED:
            account.rejected += 1

    def used(self, tenant: str, tokens: int) -> None:
        """Count real usage."""
        self._account(tenant).tokens_used += max(0, tokens)

    def _account(self, tenant: str) -> Account:
        account = self.accounts.get(tenant)
        if account is None:
            account = self.accounts[tenant] = Account()
            if len(self.accounts) > _TENANTS:
                del self.accounts[next(iter(self.accounts))]
        return account
