/** What is typed becomes a verb and its options, or one line that says what was meant. Nothing is run here. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { type Call, parse } from "../../src/cli/command.js";
import { verbs } from "../../src/cli/verbs.js";
import { BimedixError } from "../../src/errors.js";
import { nearest } from "../../src/nearest.js";
import { root } from "../fixtures.js";

function call(...argv: string[]): Call {
  const parsed = parse(argv, "1.2.3");
  assert.ok(typeof parsed !== "string", "help instead of a call");
  return parsed;
}

const printed = (...argv: string[]) => {
  const parsed = parse(argv, "1.2.3");
  assert.ok(typeof parsed === "string", "a call instead of a text");
  return parsed;
};

const refused = (argv: string[], says: RegExp) =>
  assert.throws(
    () => parse(argv, "1.2.3"),
    (error: unknown) => {
      assert.ok(error instanceof BimedixError, String(error));
      assert.equal(error.code, "bad_option");
      assert.match(error.message, says);
      return true;
    },
  );

describe("verbs", () => {
  test("one with a slip, in capitals, behind its options or of another program is no question", () => {
    refused(["sevre"], /did you mean bimedix serve\?.*bimedix chat sevre/);
    refused(["sevre", "--port", "8001"], /did you mean bimedix serve\?/);
    refused(["trian", "recipes/first-steps.yaml"], /did you mean bimedix train\?/);
    refused(["comapre", "results/a", "results/b"], /did you mean bimedix compare\?/);
    refused(["evla", "--max-new-tokens", "5"], /did you mean bimedix eval\?/);
    refused(["convrt"], /did you mean bimedix convert\?/);
    refused(["Serve"], /did you mean bimedix serve\?/);
    refused(["--dtype", "q4", "serve"], /did you mean bimedix serve\?/);
    refused(["evaluate"], /did you mean bimedix eval\?/);
  });

  test("a question of one word is one, also when it sounds like a verb", () => {
    const words = ["Hello", "hello", "hi", "مرحبا", "صداع", "asthma", "gout", "help!", "serve?", "Brain"];
    for (const word of [
      ...words,
      "brain",
      "nerve",
      "strain",
      "mask",
      "task",
      "that",
      "verge",
      "vein",
      "chest",
      "heart",
    ]) {
      const { verb, args } = call(word);
      assert.deepEqual([verb.name, args], ["chat", [word]], word);
    }
    assert.deepEqual(call("chat", "sevre").args, ["sevre"]);
    assert.deepEqual(call("--", "serve").args, ["serve"]);
    assert.deepEqual(call("help", "me", "please").args, ["help", "me", "please"]);
    assert.deepEqual(call("nerve", "pain").args, ["nerve", "pain"]);
  });

  test("two words name one, and help knows each", () => {
    assert.equal(call("eval", "merge", "a.jsonl").verb.name, "eval merge");
    for (const verb of verbs) {
      const help = printed(...verb.name.split(" "), "--help").replace(/\s+/g, " ");
      assert.match(help, new RegExp(`^Usage: bimedix ${verb.name}`));
      assert.equal(printed("help", verb.name.split(" ")[0]!).split(" ")[0], "Usage:");
      for (const { flags, help: what, required, default: fallback } of verb.options) {
        const more = `${required ? " (required)" : ""}${fallback === undefined ? "" : `; default: ${fallback}`}`;
        assert.ok(help.includes(`${flags} ${what}${more}`), `${verb.name} ${flags}`);
      }
      assert.ok(verb.examples.length > 0);
    }
    assert.match(printed("--help"), /Exit status: 0 .* 1 .* 2 .* 130 .* 143/s);
    assert.equal(printed("--version"), "1.2.3\n");
  });
});

/** A command in the words of a shell, with double quotes and comments. */
function words(line: string): string[] {
  return [...line.replace(/ [#<].*$/, "").matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, word]) => quoted ?? word!);
}

test("every example of the help and every command of the README is understood", () => {
  const examples = verbs.flatMap((verb) => verb.examples.map(([command]) => [verb.name, command] as const));
  for (const [name, command] of examples) {
    const { verb } = call(...words(command));
    assert.ok(verb.name === name || (name === "eval" && verb.name === "eval merge"), command);
  }
  const readme = readFileSync(join(root, "README.md"), "utf8");
  const commands = [...readme.matchAll(/^npm start -- (.*)$/gm)].map(([, command]) => command!);
  assert.ok(commands.length >= 8);
  for (const command of commands) call(...words(command));
});

describe("options", () => {
  test("with _ as with -, and named in errors as they were typed", () => {
    const { options, typed } = call("hi", "--max_new_tokens", "5", "--top-k=7", "--repetition_penalty=1.1");
    assert.deepEqual([options.maxNewTokens, options.topK, options.repetitionPenalty], [5, 7, 1.1]);
    assert.equal(typed.get("--max-new-tokens"), "--max_new_tokens");
    refused(
      ["hi", "--max_new_tokens", "many"],
      /^--max_new_tokens many; expected a whole number from 1; see bimedix chat --help/,
    );
    refused(["hi", "--max-new-tokens", "0"], /^--max-new-tokens 0; /);
    refused(
      ["serve", "--port", "99999"],
      /^--port 99999; expected a whole number from 0 to 65535; see bimedix serve --help/,
    );
    refused(["eval", "--num_fewshot", "-1"], /^--num_fewshot -1; /);
    refused(["hi", "--dtype", "q3"], /^--dtype q3; expected fp32, q8, q4, bnb4/);
  });

  test("in Arabic and Persian digits", () => {
    const { options } = call("مرحبا", "--max-new-tokens", "٢٠", "--temperature", "٠٫٧", "--seed", "۱۲");
    assert.deepEqual([options.maxNewTokens, options.temperature, options.seed], [20, 0.7, 12]);
    refused(["مرحبا", "--max-new-tokens", "عشرة"], /^--max-new-tokens عشرة; expected a whole number/);
  });

  test("a mistyped one is named with what was meant, and one of another verb with that verb", () => {
    refused(
      ["hi", "--tempreature", "1"],
      /unknown option --tempreature; .*did you mean --temperature\?.*bimedix chat --help/,
    );
    refused(["hi", "--max_new_token", "1"], /--max_new_token; .*--max-new-tokens/);
    refused(["hi", "-model", "x"], /-model; .*did you mean --model\?/);
    refused(["hi", "--Model", "x"], /did you mean --model\?/);
    refused(["hi", "--port", "80"], /--port belongs to serve/);
    refused(["train", "r.yaml", "--learning-rate", "1"], /learning_rate=VALUE.*bimedix train --help/);
    refused(["hi", "—model", "x"], /long dash.*--model/);
    refused(["hi", "--json=true"], /--json with a value; expected --json alone/);
  });

  test("a value that is missing is not the next option", () => {
    refused(
      ["hi", "--model", "--dtype", "q4"],
      /--model without its value, before --dtype; expected --model <dir\|hub-id\|url>/,
    );
    refused(["hi", "--model"], /--model without its value/);
    refused(
      ["mcqa", "--options", "a", "b"],
      /no --question; expected bimedix mcqa --question <text> .*bimedix mcqa --help/,
    );
    refused(["merge", "a", "b"], /no --output; expected bimedix merge --output <dir>/);
    refused(["compare", "a"], /no <b>/);
    refused(["merge", "a", "b", "c", "--output", "d"], /too many arguments \(a b c\)/);
  });

  test("text may begin with a dash, be a negative number, and after -- be anything", () => {
    assert.deepEqual(call("- What is gout?").args, ["- What is gout?"]);
    assert.deepEqual(call("-5 °C in the freezer?").args, ["-5 °C in the freezer?"]);
    const { options } = call("mcqa", "--question", "-1 + -1 = ?", "--options", "-2", "- 2", "-2 °C", "٢-", "--json");
    assert.deepEqual(
      [options.question, options.options, options.json],
      ["-1 + -1 = ?", ["-2", "- 2", "-2 °C", "٢-"], true],
    );
    assert.deepEqual(call("--dtype", "q4", "--", "--dtype", "what", "-x").args, ["--dtype", "what", "-x"]);
    assert.equal(call("mcqa", "--question=--dtype?", "--options", "a", "b").options.question, "--dtype?");
    refused(["hi", "--temperature", "-1"], /^--temperature -1; /);
  });
});

test("the nearest name is one slip away, two in long ones", () => {
  assert.equal(nearest("learning_rte", ["learning_rate", "lr_scheduler"]), "learning_rate");
  assert.equal(nearest("sevre", ["serve"]), "serve");
  assert.equal(nearest("svr", ["serve"]), undefined);
  assert.equal(nearest("", ["ask"]), undefined);
});
