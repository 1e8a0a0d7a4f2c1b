# SPDX-License-Identifier: Apache-2.0
"""The injector: puts the sidecar into pods that ask for it, as they are created."""
