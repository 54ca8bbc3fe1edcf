// The official validator on OpenRPC documents.
//
// Reads an object of documents from stdin, by name; prints, by name: whether the document is valid
// (true, or what is wrong), the methods that the official parser finds in it, and what the official
// checker of calls says of each of `calls`, pairs of a method and its parameters.
"use strict";

const {
  MethodCallValidator,
  parseOpenRPCDocument,
  validateOpenRPCDocument,
} = require("@open-rpc/schema-utils-js");

function verdict(checker, [method, params]) {
  const found = checker.validate(method, params);
  return Array.isArray(found) ? found.length === 0 : String(found.message);
}

async function report(document, calls) {
  const valid = validateOpenRPCDocument(document);
  if (valid !== true) {
    return { valid: valid.message };
  }
  const parsed = await parseOpenRPCDocument(JSON.stringify(document), { dereference: true });
  const checker = new MethodCallValidator(parsed);
  return {
    valid,
    methods: parsed.methods.map((method) => method.name),
    references: JSON.stringify(parsed.methods).split('"$ref"').length - 1,
    calls: calls.map((call) => verdict(checker, call)),
  };
}

async function main() {
  let text = "";
  for await (const piece of process.stdin.setEncoding("utf8")) {
    text += piece;
  }
  const { documents, calls } = JSON.parse(text);
  const reports = {};
  for (const [name, document] of Object.entries(documents)) {
    reports[name] = await report(document, calls);
  }
  console.log(JSON.stringify(reports));
}

main();
