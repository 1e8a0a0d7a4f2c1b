# SPDX-License-Identifier: Apache-2.0
"""The meters by which a pool's tenants are ranked, and calls measured: vectors are in their order.

They are the continuous meters; where there is none, the fixed windows below an hour; else all. Day windows gate calls
but do not rank tenants. Figures of the budget are read now and then, not for each decision.
"""

from __future__ import annotations

from sluicegate.broker.core.budget import Budget
from sluicegate.broker.core.units import Charge

_RATES_AGE = 0.1
_LIMITS_AGE = 1.0
_HOUR = 3600.0


class Ranking:
    """Meters, which of them are `continuous`, their capacity and effective `rates` per second."""

    def __init__(self, budget: Budget, now: float) -> None:
        effective = budget.rates(now)
        meters = budget.status(now)
        ranking = [meter for meter in meters if meter.key in effective and meter.key.window < _HOUR]
        ranking = ranking or [meter for meter in meters if meter.key.window < _HOUR] or list(meters)
        self.meters = tuple(meter.key for meter in ranking)
        self.continuous = frozenset(key for key in self.meters if key in effective)
        self._budget = budget
        self.read_limits(now)

    def advance(self, now: float) -> None:
        """Read again what has become old."""
        if now - self._rates_at >= _RATES_AGE:
            if now - self._limits_at >= _LIMITS_AGE:
                self.read_limits(now)
            else:
                self.read_rates(now)

    def read_rates(self, now: float) -> None:
        effective = self._budget.rates(now)
        self.rates = tuple(effective.get(key, nominal) for key, nominal in zip(self.meters, self._nominal, strict=True))
        self._rates_at = now

    def read_limits(self, now: float) -> None:
        """Read all figures again, at once."""
        status = {meter.key: meter for meter in self._budget.status(now)}
        self._nominal = tuple(max(status[key].limit / key.window, 1e-9) for key in self.meters)
        self.capacity = tuple(status[key].capacity for key in self.meters)
        self._limits_at = now
        self.read_rates(now)

    def vector(self, charge: Charge) -> tuple[float, ...]:
        """`charge` on each meter."""
        return tuple([charge.of(key.resource) for key in self.meters])

    def share(self, vector: tuple[float, ...]) -> float:
        """The dominant share of a charge: the most seconds of any limit's rate that it takes."""
        most = 0.0
        for number, nominal in enumerate(self._nominal):
            most = max(most, vector[number] / nominal)
        return most
