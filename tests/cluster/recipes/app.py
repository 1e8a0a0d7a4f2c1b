# SPDX-License-Identifier: Apache-2.0
"""An app as its author wrote it, without a word of Sluicegate: it calls a model again and again.

Each call is one line of JSON on standard output. `CALLS`: how many (0: for ever); `PAUSE`: seconds in between;
`CALLERS`: how many call at a time.
"""

import json
import os
import sys
import threading
import time

import openai

client = openai.OpenAI(timeout=30.0)
calls, pause = int(os.environ.get("CALLS", "0")), float(os.environ.get("PAUSE", "0.2"))
writing = threading.Lock()
failed = threading.Event()


def call_again_and_again() -> None:
    number = 0
    while not calls or number < calls:
        number += 1
        begun = time.time()
        line: dict[str, object] = {"call": number, "at": begun, "pod": os.environ.get("HOSTNAME", "")}
        try:
            answer = client.chat.completions.with_raw_response.create(
                model="gpt-4o", messages=[{"role": "user", "content": f"Hello, call {number}"}], max_tokens=20
            )
            line["ok"] = bool(answer.parse().choices[0].message.content)
            line["headers"] = {key: value for key, value in answer.headers.items() if key.startswith("x-sluicegate-")}
        except openai.OpenAIError as problem:
            failed.set()
            line["ok"] = False
            line["error"] = f"{type(problem).__name__}: {problem}"
        line["took"] = round(time.time() - begun, 3)
        with writing:
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
        time.sleep(pause)


callers = [threading.Thread(target=call_again_and_again) for _ in range(int(os.environ.get("CALLERS", "1")))]
for caller in callers:
    caller.start()
for caller in callers:
    caller.join()
raise SystemExit(1 if failed.is_set() else 0)
