# SPDX-License-Identifier: Apache-2.0
"""What the sidecar decides, pure: no clock, no waiting, no logging, no environment. `now` is an argument."""
