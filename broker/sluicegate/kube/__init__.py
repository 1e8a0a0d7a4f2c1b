# SPDX-License-Identifier: Apache-2.0
"""What broker, operator and injector share of Kubernetes: a client of the API server, and certificates kept there."""
