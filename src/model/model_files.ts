/** What belongs to a model beside its weights, on its way into another folder; and the folders that must not be written to. */
import { constants } from "node:fs";
import { copyFile, mkdir, readdir, realpath, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { BimedixError } from "../errors.js";
import { file_error, part_in, read_json, read_text, same_folder, write_atomically } from "../files.js";

/** The files that a model is loaded from beside its weights, here and in transformers. */
export const LOADED_FILES: readonly string[] = [
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer.model",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
];
/** Templates by name, as transformers saves them. */
export const TEMPLATES = "additional_chat_templates";
/** And those that it is published with. */
const PUBLISHED = /^(README|LICEN[CS]E|NOTICE)/i;

/** Configuration, tokenizer and templates, without weights and card; config.json, which makes a model of a folder, is the last. */
export async function copy_model_files(from: string, to: string): Promise<void> {
  for (const name of [...(await files_of(from, TEMPLATES)), ...[...LOADED_FILES].reverse()])
    await copy_file(from, to, name);
}

/** The same with card and licence, and written so that Transformers.js finds weights and template. */
export async function copy_published_files(from: string, to: string): Promise<void> {
  const published = (await readdir(from)).filter((name) => PUBLISHED.test(name));
  for (const name of published) await copy_file(from, to, name);
  await copy_model_files(from, to);
  const rewrite = async (name: string, code: "bad_config" | "bad_tokenizer", added: object) => {
    const text = JSON.stringify({ ...(await read_json(join(from, name), code)), ...added }, null, 2);
    await write_atomically(join(to, name), (handle) => handle.writeFile(text));
  };
  const template = join(from, "chat_template.jinja");
  // Transformers.js reads the template here and nowhere else; for others the file beside it goes before this.
  if ((await is_file(join(from, "tokenizer_config.json"))) && (await is_file(template)))
    await rewrite("tokenizer_config.json", "bad_tokenizer", { chat_template: await read_text(template, "a template") });
  // Without this it looks for the weights inside the graph.
  await rewrite("config.json", "bad_config", { "transformers.js_config": { use_external_data_format: true } });
}

/** Files alone: a link to nothing is as good as no file, and a pipe might never end. What is in its place is replaced and not written through. */
async function copy_file(from: string, to: string, name: string): Promise<void> {
  const [source, target] = [join(from, name), join(to, name)];
  if (!(await is_file(source))) return;
  const part = part_in(to);
  try {
    await mkdir(dirname(target), { recursive: true });
    await copyFile(source, part, constants.COPYFILE_EXCL);
    await rename(part, target);
  } catch (error) {
    await rm(part, { force: true }).catch(() => {});
    throw file_error(error, target, "a place to write to");
  }
}

async function files_of(dir: string, folder: string): Promise<string[]> {
  const names: string[] = await readdir(join(dir, folder)).catch(() => []);
  return names.filter((name) => name.endsWith(".jinja")).map((name) => join(folder, name));
}

const is_file = (path: string): Promise<boolean> =>
  stat(path).then(
    (found) => found.isFile(),
    () => false,
  );

/**
 * That a model written into `output` replaces no file that the one in `dir` is read from, where either leads to the other through a link,
 * a bind mount, or another spelling.
 * @throws BimedixError bad_option
 */
export async function refuse_own_base(output: string, dir: string): Promise<void> {
  const places = new Set([dir, join(dir, "onnx")]);
  for (const folder of [...places])
    for (const name of await readdir(folder).catch(() => []))
      if (await is_file(join(folder, name))) places.add(dirname(await realpath(join(folder, name))));
  for (const written of [output, join(output, "onnx")])
    for (const place of places)
      if (await same_folder(written, place))
        throw new BimedixError("bad_option", {
          given: `${output} as output, which is the base model's own directory ${dir}, or has files of it in it`,
          expected: "another one, as the model is read while it is written",
          todo: "choose another output",
        });
}
