# SPDX-License-Identifier: Apache-2.0
"""Of all parts. Here as well as in pyproject.toml, since importlib.metadata takes a MB of every sidecar's memory."""

VERSION = "0.1.0"
