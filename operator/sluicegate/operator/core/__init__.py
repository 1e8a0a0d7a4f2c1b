# SPDX-License-Identifier: Apache-2.0
"""The operator's pure part: custom resources in, a configuration and conditions out."""
