# SPDX-License-Identifier: Apache-2.0
"""Public test doubles: a fake clock, the arithmetic of provider limits, and a provider emulator.

Nothing in this package imports the broker or the sidecar, so that what they are tested against is independent of them.

- `sluicegate.testing.clock`: `FakeClock`, time that moves when told.
- `sluicegate.testing.limits`: `ProviderLimits`, what a provider's rate limits admit; pure, virtual time.
- `sluicegate.testing.truth`: `AccountedLimits`, the same with ground-truth accounting; pure, virtual time.
- `sluicegate.testing.emulator`: `serve(EmulatorConfig)`, an HTTP server that SDKs take for OpenAI and Anthropic.
- `sluicegate.testing.command`: the same as `sluicegate emulate`.
"""
