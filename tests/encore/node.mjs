/** Plays scenarios in Node: a command per line of input, what it has come to per line of output. */

import { createInterface } from "node:readline";

import { play } from "./scenarios.mjs";

for await (const line of createInterface({ input: process.stdin })) {
  const { url, scenario, parameters } = JSON.parse(line);
  console.log(JSON.stringify(await play(WebSocket, url, scenario, parameters)));
}
