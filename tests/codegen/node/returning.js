// A stream that comes back whatever happens to the server; each line of output is something that it has seen.

import { WebSocket } from "ws";

const { Client } = await import(process.env.CLIENT);
const { live } = new Client(process.env.URL, { WebSocket });
const on = {
  lost: ({ code }) => console.log(`lost ${code}`),
  back: () => console.log("back"),
};
const stream = live.wait({ reconnect: { base: 0.05, cap: 0.2 }, connectTimeout: 30, on });
let messages = 0;
for await (const { value } of stream) {
  console.log(`message ${value}`);
  messages += 1;
  if (messages === 2) {
    break;
  }
}
