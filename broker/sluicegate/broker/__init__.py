# SPDX-License-Identifier: Apache-2.0
"""The broker: the pure core that decides, and the shell around it."""
