#!/usr/bin/env node
/** The command line: what a verb is told stands in verbs.ts, what it does in a file of its own. */
import { readFileSync } from "node:fs";
import { type Call, parse } from "./command.js";
import { report, watch_outputs } from "./ending.js";
import { called } from "./terminal.js";

const { version } = JSON.parse(readFileSync(new URL("../../../package.json", import.meta.url), "utf8")) as {
  version: string;
};

/** A message in the words of the person: options as they were written, and how this program was started. */
function reword(message: string, typed: Call["typed"]): string {
  let text = message.replace(/\bbimedix (?=[a-z-]+ )/g, called(""));
  for (const [name, written] of typed) {
    const parameter = name.replace(/^--/, "").replaceAll("-", "_");
    // The library's name of the option: one word may be a word of the sentence, unless it begins it.
    if (parameter.includes("_")) text = text.replace(new RegExp(`(?<![-\\w])${parameter}\\b`, "g"), written);
    else if (text.startsWith(`${parameter} `)) text = written + text.slice(parameter.length);
  }
  return text;
}

let call: Call | string = "";
try {
  watch_outputs(() => typeof call === "object" && call.verb.leaves_something === true);
  call = parse(process.argv.slice(2), version);
  if (typeof call === "string") process.stdout.write(call);
  else await call.verb.run(call.args, call.options, version);
} catch (error) {
  const typed: Call["typed"] = typeof call === "object" ? call.typed : new Map();
  report(error, (message) => reword(message, typed));
}
