// A worker that reads one stream, and waits after each message. While it waits it reads nothing, so the browser's buffers
// fill, then the network's, and then the server has to do something about it. The page itself stays quick.

import { Client } from "/client.js";

onmessage = async ({ data: { endpoint, pace } }) => {
  let read = 0, moved = {}, missed = 0, due = 0, told = 0;
  let fastest = Infinity; // the two clocks' difference, and the shortest way that a price has had
  const gap = (_topic, _key, count) => (missed += count);
  const stream = new Client(location.origin).ticker[endpoint]({ on: { gap } });
  try {
    for await (const { symbol, cents, at } of stream) {
      const now = performance.now();
      fastest = Math.min(fastest, now - at);
      moved[symbol] = cents;
      read += 1;
      if (now - told > 100) {
        postMessage({ read, moved, missed, behind: now - at - fastest });
        [read, moved, told] = [0, {}, now];
      }
      const limit = pace ? Number(Atomics.load(pace, 0)) : 0;
      if (limit) {
        due = Math.max(due + 1000 / limit, now - 20);
        if (due > now) Atomics.wait(pace, 0, limit, due - now); // until the slider is moved, at the latest
      }
    }
  } catch {
    // How it has ended is told below.
  }
  const { error } = await stream.closed;
  postMessage({ closed: error === null ? null : { code: error.code, message: error.message, closeCode: error.closeCode } });
};
