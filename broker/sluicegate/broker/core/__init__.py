# SPDX-License-Identifier: Apache-2.0
"""The pure core: budget arithmetic, scheduling, documents. No clock, no I/O; `now` is an argument."""
