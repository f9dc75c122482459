// A world without sockets or time: timers fire when a test says so, and the server is the test.

import assert from "node:assert/strict";

const real = { setTimeout, clearTimeout, random: Math.random, now: performance.now };

/** Virtual time. Random numbers are 1: a random pause is as long as it may be. */
export class Clock {
  #now = 0;
  #timers = new Map();
  #last = 0;

  install() {
    globalThis.setTimeout = (action, milliseconds) => {
      const seconds = milliseconds < 2 ** 31 ? milliseconds / 1000 : 0.001; // as real ones have it
      this.#timers.set((this.#last += 1), { at: this.#now + seconds, action });
      return this.#last;
    };
    globalThis.clearTimeout = (timer) => this.#timers.delete(timer);
    performance.now = () => this.#now * 1000;
    Math.random = () => 1;
  }

  uninstall() {
    Object.assign(globalThis, { setTimeout: real.setTimeout, clearTimeout: real.clearTimeout });
    Object.assign(performance, { now: real.now });
    Math.random = real.random;
  }

  async advance(seconds) {
    const until = this.#now + seconds;
    for (;;) {
      await settled();
      const [[timer, next] = []] = [...this.#timers].sort(([, one], [, other]) => one.at - other.at);
      if (next === undefined || next.at > until + 1e-9) {
        break;
      }
      this.#timers.delete(timer);
      this.#now = next.at;
      next.action();
    }
    this.#now = until;
  }
}

/** Wait until nothing is left to do but what waits for a timer. */
export async function settled() {
  for (let turn = 0; turn < 3; turn += 1) {
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** A WebSocket whose other end is the test. */
export class FakeWebSocket {
  static dialled = [];

  protocol = "";
  readyState = 0;
  bufferedAmount = 0;
  sent = [];
  closes = [];
  onopen = null;
  onmessage = null;
  onclose = null;
  onerror = null;

  constructor(url, protocols) {
    Object.assign(this, { url, protocols });
    FakeWebSocket.dialled.push(this);
  }

  send(data) {
    assert.equal(this.readyState, 1);
    const text = typeof data === "string" ? data : new TextDecoder().decode(data);
    this.sent.push({ [typeof data === "string" ? "message" : "control"]: JSON.parse(text) });
  }

  close(code, reason) {
    this.closes.push({ code, reason });
  }

  /** What the client offers in the tunnel. */
  get headers() {
    const entry = this.protocols.find((of) => of.startsWith("encore.dev.headers."));
    return entry === undefined ? {} : JSON.parse(Buffer.from(entry.slice(19), "base64url").toString());
  }

  on(event, listener) {
    this.onping = event === "ping" ? listener : undefined;
  }

  accept(protocol) {
    this.readyState = 1;
    this.protocol = protocol;
    this.onopen?.({});
  }

  deliver(data) {
    this.onmessage?.({ data });
  }

  end(code, reason) {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }
}
