# SPDX-License-Identifier: Apache-2.0
"""The operator: custom resources to one snapshot of configuration, pushed to the broker."""
