"""The smallest host: spawn the engine, shake hands, stream one answer, leave.

Shows on the left the raw lines that cross the pipe (`>` to the engine, `<` from it), and at the
end the text as a user would see it. Run it with `make run`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from typing import Any

WIDTH = 160


def main() -> None:
    """Spawn, talk, leave."""
    started = time.perf_counter()
    engine = subprocess.Popen(
        [sys.executable, "-m", "mlx_stdio", *sys.argv[1:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert engine.stdin is not None
    assert engine.stdout is not None
    assert engine.stderr is not None
    stdin, stdout, stderr = engine.stdin, engine.stdout, engine.stderr
    # A host drains stderr always, or the engine's logs (and its own) come to a stop.
    logs: list[bytes] = []
    drain = threading.Thread(target=lambda: logs.extend(stderr), daemon=True)
    drain.start()

    def show(sign: str, line: str) -> None:
        at = (time.perf_counter() - started) * 1000
        shown = line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"
        print(f"{at:7.1f} ms {sign} {shown}", flush=True)

    def send(message: dict[str, Any]) -> None:
        line = json.dumps({"jsonrpc": "2.0", **message})
        show(">", line)
        stdin.write(line.encode() + b"\n")
        stdin.flush()

    def receive(request_id: int) -> tuple[Any, str]:
        text = ""
        for raw in stdout:
            show("<", raw.decode().rstrip("\n"))
            message = json.loads(raw)
            if message.get("method") == "stream/delta":
                text += message["params"]["text"]
            if message.get("id") == request_id and "method" not in message:
                if "error" in message:
                    raise SystemExit(f"the engine refused: {message['error']}")
                return message["result"], text
        raise SystemExit(b"".join(logs).decode() or "the engine ended without an answer")

    send({"id": 0, "method": "initialize", "params": {"protocolVersion": 1}})
    receive(0)
    question = "Write a Python function `add(a, b)` that returns the sum of two numbers."
    send(
        {
            "id": 1,
            "method": "chat",
            "params": {"messages": [{"role": "user", "content": question}], "maxTokens": 120},
        }
    )
    result, text = receive(1)
    send({"id": 2, "method": "shutdown"})
    receive(2)
    send({"method": "exit"})
    code = engine.wait(10)

    assert text == result["message"]["content"]
    timings = result["timings"]
    print(f"\n{question}\n\n{text}\n")
    print(
        f"{result['usage']['completionTokens']} tokens, first after {timings['firstTokenMs']:.0f} "
        f"ms (model load included), {timings['tokensPerSecond']} tokens/s; exit code {code}"
    )


if __name__ == "__main__":
    main()
