# SPDX-License-Identifier: Apache-2.0
"""The wire, generated from proto/sluicegate/v1/*.proto by `make proto`: do not edit."""
