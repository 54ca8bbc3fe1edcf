// An editor's way to talk to the engine: `vscode-jsonrpc` with Content-Length framing.
//
// Its arguments are the engine's command; it prints what happened as one JSON object. Each entry of
// `events` is a notification or a reply, in the order in which the library gave them.
"use strict";

const { spawn } = require("node:child_process");
const rpc = require("vscode-jsonrpc/node");

const PROMPT = "def add(a, b):";

async function main() {
  const [command, ...rest] = process.argv.slice(2);
  const engine = spawn(command, rest, { stdio: ["pipe", "pipe", "inherit"] });
  const exit = new Promise((resolve) => engine.once("exit", resolve));
  const connection = rpc.createMessageConnection(
    new rpc.StreamMessageReader(engine.stdout),
    new rpc.StreamMessageWriter(engine.stdin),
  );
  const events = [];
  let onDelta = () => {};
  connection.onNotification("stream/delta", (params) => {
    events.push({ delta: params });
    onDelta(params);
  });
  connection.listen();

  async function call(name, method, ...rest) {
    try {
      events.push({ reply: name, result: await connection.sendRequest(method, ...rest) });
    } catch (error) {
      const { code, message, data } = error;
      events.push({ reply: name, error: { code, message, data } });
    }
  }

  await call("initialize", "initialize", { protocolVersion: 1, clientInfo: { name: "editor" } });
  await call("short", "generate", { prompt: PROMPT, maxTokens: 12, streamToken: "short" });

  const source = new rpc.CancellationTokenSource();
  onDelta = (params) => {
    if (params.streamToken === "long" && params.seq === 2) {
      source.cancel();
    }
  };
  const long = { prompt: PROMPT, maxTokens: 800, ignoreEos: true, streamToken: "long" };
  await call("long", "generate", long, source.token);

  await Promise.all(
    ["a", "b", "c"].map((name) =>
      call(name, "generate", { prompt: PROMPT, maxTokens: 5, ignoreEos: true, streamToken: name }),
    ),
  );
  await call("wrong", "generate", { prompt: 5 });
  await call("shutdown", "shutdown");
  await connection.sendNotification("exit");
  const code = await exit;
  connection.dispose();
  console.log(JSON.stringify({ events, exit: code }));
}

main();
