# SPDX-License-Identifier: Apache-2.0
"""`sluicegate emulate`: a provider on loopback whose limits behave like the real ones."""

from __future__ import annotations

from sluicegate.testing.command import add_arguments
from sluicegate.testing.command import run_emulator as run

__all__ = ["add_arguments", "run"]
