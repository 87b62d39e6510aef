// Slack's own types: each message must compile as what `chat.postMessage` takes.
//
// node check.mjs FOLDER MODULES   judges the messages in FOLDER, with the packages below MODULES

import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const [folder, modules] = process.argv.slice(2);
const fail = (why) => {
  console.error(`@slack/types: ${why}`);
  process.exit(1);
};

// The packages are found from beside them.
const work = join(modules, "messages");
rmSync(work, { recursive: true, force: true });
mkdirSync(work);

/** The errors of the compiler for these messages, by name; empty if there are none. */
function compile(messages) {
  const files = messages.map(([name, message], at) => {
    const file = join(work, `${at}-${name.replace(/[^a-z0-9]+/g, "-")}.ts`);
    const literal = JSON.stringify({ channel: "C1", ...message }, null, 1);
    writeFileSync(
      file,
      `import type { ChatPostMessageArguments } from "@slack/web-api";\n` +
        `export const message: ChatPostMessageArguments = ${literal};\n`,
    );
    return file;
  });
  const options = "--noEmit --strict --skipLibCheck --target es2022 --module nodenext --moduleResolution nodenext";
  const tsc = join(modules, "node_modules", "typescript", "bin", "tsc");
  const run = spawnSync(process.execPath, [tsc, ...options.split(" "), "--types", "node", ...files], {
    cwd: modules,
    encoding: "utf8",
  });
  if (run.error) fail(run.error.message);
  return { status: run.status, output: run.stdout + run.stderr };
}

const names = readdirSync(folder).filter((name) => name.endsWith(".json")).sort();
if (names.length === 0) fail(`no messages in ${folder}`);
const messages = names.map((name) => [name, JSON.parse(readFileSync(join(folder, name), "utf8"))]);
const judged = compile(messages);
if (judged.status !== 0) fail(judged.output);

// The same judge must see what is wrong.
const spoilt = {
  "a header with mrkdwn": (m) => m.blocks.push({ type: "header", text: { type: "mrkdwn", text: "x" } }),
  "an unknown block": (m) => m.blocks.push({ type: "sekshun", text: { type: "mrkdwn", text: "x" } }),
  "an unknown key": (m) => m.attachments[0].blocks.push({ type: "divider", size: 3 }),
  "a number for a color": (m) => (m.attachments[0].color = 3),
};
const wrong = Object.entries(spoilt).map(([name, spoil]) => {
  const message = structuredClone(messages[0][1]);
  spoil(message);
  return [name, message];
});
const refused = compile(wrong);
wrong.forEach(([name], at) => {
  const seen = new RegExp(`(^|[\\\\/])${at}-[^:]*\\.ts\\(\\d+,\\d+\\): error TS2`, "m");
  if (refused.status === 0 || !seen.test(refused.output)) fail(`${name} was accepted: this judge sees nothing`);
});
console.log(`@slack/types: ${names.length} messages compiled; ${wrong.length} wrong ones refused`);
