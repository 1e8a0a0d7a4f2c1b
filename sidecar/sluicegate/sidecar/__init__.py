# SPDX-License-Identifier: Apache-2.0
"""The sidecar: an HTTP reverse proxy that asks the broker for a slot for every call."""
