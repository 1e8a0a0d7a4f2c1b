# SPDX-License-Identifier: Apache-2.0
"""`sluicegate up`: broker and sidecar on this machine's loopback, in the foreground, without a cluster.

The tenant header is trusted, since whoever can reach loopback is the user.
"""
