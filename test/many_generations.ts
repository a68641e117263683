// A process that answers many questions and prints its memory in MB after the 40th and the 240th; run by package.test.ts.
import { join } from "node:path";
import { Assistant } from "bimedix";
import { root } from "./fixtures.js";

const assistant = await Assistant.from_pretrained(join(root, "models/nano"));
const sizes: number[] = [];
for (let i = 0; i < 240; i++) {
  const content = `I have had a headache for ${i} days. `.repeat(1 + (i % 5));
  const options = { max_new_tokens: 40, eos_token_id: null, seed: i };
  for await (const _ of assistant.chat([{ role: "user", content }], options));
  if (i === 39 || i === 239) sizes.push(Math.round(process.memoryUsage.rss() / 1e6));
}
await assistant.dispose();
console.log(JSON.stringify(sizes));
