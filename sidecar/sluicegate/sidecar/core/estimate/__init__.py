# SPDX-License-Identifier: Apache-2.0
"""What a call will cost, before it is sent.

`prompt_of` reads a parsed request into what is to be counted; the shell counts with tiktoken where an encoding is
known (`Prompt.encoding`); `estimate` puts it together. Pure: a tokenizer is large and slow, hence the shell's.
"""

from sluicegate.sidecar.core.estimate.prompt import (
    DEFAULT_OUTPUT,
    Prompt,
    estimate,
    prompt_of,
)

__all__ = ["DEFAULT_OUTPUT", "Prompt", "estimate", "prompt_of"]
