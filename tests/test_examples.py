"""What a newcomer runs first: the example and the snippet of the README, as they are."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.host import PATIENCE, ROOT, Host

HELLO = ROOT / "examples" / "hello.py"


def run(*command: str, path: str | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr, every character as it was written."""
    done = subprocess.run(
        command,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PATH": path or os.environ["PATH"], "PYTHONUTF8": "1"},
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def shown(output: str, sign: str) -> list[str]:
    """The lines that the example shows as sent (`>`) or received (`<`); long ones are cut."""
    return re.findall(rf"^ *[\d.]+ ms {sign} (.*)$", output, re.MULTILINE)


def test_hello_shows_the_conversation_and_the_text(models: Path) -> None:
    arguments = ("--models-dir", str(models), "--model", "tiny")
    code, out, err = run(sys.executable, str(HELLO), *arguments)
    assert (code, err) == (0, "")
    methods = [re.findall(r'"method": "(.*?)"', line) for line in shown(out, ">")]
    assert methods == [["initialize"], ["chat"], ["shutdown"], ["exit"]]
    received = shown(out, "<")
    assert '"serverInfo"' in received[0]
    assert sum('"stream/delta"' in line for line in received) > 10
    assert json.loads(received[-1]) == {"jsonrpc": "2.0", "id": 2, "result": None}
    (question,) = re.findall(r'question = "(.*)"', HELLO.read_text())
    with Host(*arguments) as host:
        messages = [{"role": "user", "content": question}]
        result = host.call("chat", messages=messages, maxTokens=120)
    text, count = result["message"]["content"], result["usage"]["completionTokens"]
    assert f"\n{question}\n\n{text}\n" in out
    assert re.search(rf"^{count} tokens, .*; exit code 0$", out, re.MULTILINE)


def test_hello_says_what_went_wrong() -> None:
    for arguments, message in (
        (("--model", "nosuchmodel"), "nosuchmodel"),
        (("--nosuchoption",), "usage: mlx-stdio"),
    ):
        code, _, err = run(sys.executable, str(HELLO), *arguments)
        assert code == 1
        assert message in err
        assert "Traceback" not in err


def test_the_snippet_of_the_readme_prints_a_text() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (snippet,) = [block for block in blocks if '["mlx-stdio"]' in block]
    (params,) = re.findall(r'"params": (\{.*\})', snippet)
    with Host() as host:
        wanted = host.call("generate", **json.loads(params))["text"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    code, out, err = run(sys.executable, "-c", snippet + "print(engine.returncode)", path=path)
    assert code == 0, err
    assert out == f"{wanted}0\n" != "0\n"
