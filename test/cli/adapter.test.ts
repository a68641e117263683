/** An adapter from the command line to the weights: --adapter, several by name, merge. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { before, describe, test } from "node:test";
import { Assistant } from "../../src/index.js";
import { adapted_tensors, adapter_config, lora_shapes, lora_targets, write_adapter } from "../../src/model/adapter.js";
import { read_config } from "../../src/model/config.js";
import { generator } from "../../src/train/data.js";
import { rejects, root } from "../fixtures.js";

const nano = join(root, "models/nano");
const asked = { question: "Which organ pumps blood?", options: ["heart", "liver", "skin"] };

function bimedix(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [join(root, "dist/src/cli/main.js"), ...args], { encoding: "utf8" });
}

describe("an adapter of the embedded model", () => {
  let folder: string;
  let adapter: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "bimedix-"));
    adapter = join(folder, "adapter");
    const config = await read_config(nano);
    const random = generator(7);
    const tensors = adapted_tensors(config, lora_targets).flatMap(({ name, shape }) =>
      lora_shapes(name, shape, 2).map((one) => ({
        ...one,
        data: Float32Array.from({ length: one.shape[0]! * one.shape[1]! }, () => (random() - 0.5) * 0.4),
      })),
    );
    const options = { r: 2, lora_alpha: 4, lora_dropout: 0, use_rslora: false, targets: [...lora_targets] };
    await write_adapter(adapter, adapter_config(config, { base_model_name_or_path: nano, ...options }), tensors);
  });

  test("on every call, chosen by call, and merged: the same answers", async () => {
    const mcqa = async (
      options: Parameters<typeof Assistant.from_pretrained>[1],
      model = nano,
      by_call?: string | null,
    ) => {
      const assistant = await Assistant.from_pretrained(model, { dtype: "fp32", ...options });
      const result = await assistant.mcqa({ ...asked, ...(by_call === undefined ? {} : { adapter: by_call }) });
      await assistant.dispose();
      return result.options.map(({ probability }) => probability);
    };
    const plain = await mcqa({});
    const adapted = await mcqa({ adapter });
    const near = (a: number[], b: number[], tolerance: number) =>
      a.every((value, i) => Math.abs(value - b[i]!) < tolerance);
    assert.ok(!near(plain, adapted, 0.01), `${plain} ${adapted}`);
    const several = { adapter: { one: adapter, other: adapter, ["__proto__"]: adapter } };
    assert.deepEqual(await mcqa(several, nano, "one"), adapted);
    assert.deepEqual(await mcqa(several, nano, "__proto__"), adapted);
    assert.deepEqual(await mcqa(several), plain);
    assert.deepEqual(await mcqa({ adapter }, nano, null), plain);
    await rejects(mcqa(several, nano, "third"), "bad_option", /third/);

    const merged = join(folder, "merged");
    const { status, stderr, stdout } = bimedix("merge", nano, adapter, "--output", merged);
    assert.equal(status, 0, stderr);
    assert.match(stderr + stdout, /merged/);
    // The merged weights are rounded to bfloat16, as the model's own are.
    assert.ok(near(await mcqa({}, merged), adapted, 0.02));
  });

  test("--adapter on the verbs", () => {
    const json = (...args: string[]) => {
      const { status, stdout, stderr } = bimedix(...args, "--json");
      assert.equal(status, 0, stderr);
      return stdout;
    };
    const verbs = [
      ["mcqa", "--question", asked.question, "--options", ...asked.options],
      ["chat", "What is asthma?", "--temperature", "0", "--max-new-tokens", "12"],
      ["generate", "Asthma is", "--temperature", "0", "--max-new-tokens", "12"],
    ];
    for (const verb of verbs) assert.notEqual(json(...verb, "--adapter", adapter), json(...verb), verb.join(" "));
    const wrong = bimedix("mcqa", "--question", "x", "--options", "a", "b", "--adapter", join(folder, "none"));
    assert.deepEqual([wrong.status, wrong.stderr.trim().split("\n").length], [1, 1]);
    const twice = bimedix("serve", "--adapter", `a=${adapter}`, `a=${folder}`);
    assert.equal(twice.status, 2);
    assert.match(twice.stderr, /one adapter of the name a/);
  });
});
