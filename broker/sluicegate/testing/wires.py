# SPDX-License-Identifier: Apache-2.0
"""The providers whose wire is emulated, and what each charges when: the rules of `limits`, as data.

| wire | tokens are charged | afterwards | a 429 costs |
| --- | --- | --- | --- |
| openai, azure, groq | by `openai_charge` at admission, nothing is returned | | a request |
| anthropic | input by an estimate, corrected; output as it is produced | | nothing |
| gemini, vertex | input at admission, output never | | nothing |
| mistral | nothing at admission: a call is let in while a token is left | real usage, at the end | nothing |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sluicegate.testing.meters import Algorithm, Resource

Wire = Literal["openai", "anthropic", "azure", "gemini", "vertex", "mistral", "groq"]
ChargeRejected = Literal["requests", "none", "all"]


@dataclass(frozen=True, slots=True)
class WireRules:
    """`spelled`: the wire's name in configuration. `postpaid`: resources that a call needs one unit of, and is charged
    by `produce`. `produced`: what `produce` charges. `corrected`: what `adjust_input` charges. `algorithm`: of a limit
    whose configuration names none."""

    spelled: str
    charge_rejected: ChargeRejected = "none"
    postpaid: frozenset[Resource] = frozenset()
    produced: frozenset[Resource] = frozenset({"output_tokens"})
    corrected: frozenset[Resource] = frozenset()
    algorithm: Algorithm = "bucket"


RULES: dict[Wire, WireRules] = {
    "openai": WireRules("OpenAI", "requests"),
    "anthropic": WireRules(
        "Anthropic",
        postpaid=frozenset({"output_tokens"}),
        produced=frozenset({"output_tokens", "tokens"}),
        corrected=frozenset({"input_tokens", "tokens"}),
    ),
    "azure": WireRules("AzureOpenAI", "requests"),
    "gemini": WireRules("GoogleGemini", algorithm="fixed_window"),
    "vertex": WireRules("GoogleVertex", algorithm="fixed_window"),
    "mistral": WireRules(
        "Mistral",
        postpaid=frozenset({"tokens"}),
        produced=frozenset({"tokens", "output_tokens"}),
        algorithm="fixed_window",
    ),
    "groq": WireRules("Groq", "requests"),
}
