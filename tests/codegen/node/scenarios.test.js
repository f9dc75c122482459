// Play the scenarios of docs/clients.md to a generated client: CLIENT is its module, SCENARIOS the file of them.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { afterEach, beforeEach, test } from "node:test";
import { Clock, FakeWebSocket, settled } from "./world.js";

const { StreamDialer, StreamError, StreamInOut, StreamOutWithResponse } = await import(process.env.CLIENT);
const scenarios = JSON.parse(readFileSync(process.env.SCENARIOS, "utf8"));

let clock;
beforeEach(() => {
  clock = new Clock();
  clock.install();
});
afterEach(() => clock.uninstall());

const camel = (name) => name.replace(/_(\w)/g, (_, letter) => letter.toUpperCase());

/** Fill in what a scenario is tried for each of, and texts that are given by their length. */
function fill(value, each) {
  if (typeof value === "string" && value.startsWith("$")) {
    return fill(each[value.slice(1)], each);
  }
  if (value?.text_of !== undefined) {
    return "x".repeat(value.text_of);
  }
  if (Array.isArray(value)) {
    return value.map((of) => fill(of, each));
  }
  return value !== null && typeof value === "object"
    ? Object.fromEntries(Object.entries(value).map(([key, of]) => [key, fill(of, each)]))
    : value;
}

/** One stream, its program, and the server. */
class Play {
  dialled = 0;
  told = [];
  asked = [];
  received = [];
  rejected = [];
  responses = [];
  isDone = false;
  failure = undefined;
  ended = null;
  reason = new Error("enough");
  controller = new AbortController();

  constructor({ stream, options = {}, reads = true }) {
    const { headers, ...rest } = options;
    const tell =
      (name, show = (...told) => told) =>
      (...told) =>
        this.told.push([name, ...show(...told)]);
    const functions = {
      asked: (attempt) => (this.asked.push(attempt.rejected), { authorization: "Bearer ada" }),
      faltering: (attempt) => {
        this.asked.push(attempt.rejected);
        return this.asked.length === 2 ? Promise.reject(new Error("no token")) : { authorization: "Bearer ada" };
      },
      failing: () => Promise.reject(new Error("no token")),
      given: { authorization: "Bearer ada" },
    };
    FakeWebSocket.dialled = [];
    const dialer = new StreamDialer("ws://server", { WebSocket: FakeWebSocket, headers: functions[headers] });
    const all = {
      ...Object.fromEntries(Object.entries(rest).map(([name, value]) => [camel(name), value])),
      signal: this.controller.signal,
      on: {
        lost: tell("lost", (error, pause) => [error.code, pause]),
        back: tell("back"),
        recovered: tell("recovered"),
        gap: tell("gap"),
        draining: tell("draining"),
      },
    };
    const target = { path: "/x", responds: true };
    this.stream = new (stream === "in" ? StreamOutWithResponse : StreamInOut)(dialer, target, all);
    this.stream.closed.then((ended) => (this.ended = ended));
    if (stream !== "in" && reads) {
      void this.read();
    }
  }

  async read() {
    try {
      for await (const message of this.stream) {
        this.received.push(message);
      }
      this.isDone = true;
    } catch (error) {
      this.failure = error;
    }
  }

  get socket() {
    return FakeWebSocket.dialled[this.dialled - 1];
  }

  async step(name, value, { rejects }) {
    switch (name) {
      case "dials":
        if (value.after > 0) {
          await clock.advance(value.after - 0.001);
          assert.equal(FakeWebSocket.dialled.length, this.dialled, "it is too early");
        }
        await clock.advance(Math.min(value.after, 0.001));
        this.dialled += 1;
        assert.equal(FakeWebSocket.dialled.length, this.dialled);
        assert.deepEqual(this.socket.protocols.slice(0, 2), ["streamrt.v1", "encore-ws"]);
        if ("resume" in value) {
          assert.deepEqual(JSON.parse(this.socket.headers["streamrt-resume"] ?? "null"), value.resume);
        }
        if ("rejected" in value) {
          assert.equal(this.asked.at(-1), value.rejected);
          assert.equal(this.asked.length, value.asked ?? this.dialled);
        }
        break;
      case "accepts":
        this.socket.accept(value);
        break;
      case "message":
        this.socket.deliver(JSON.stringify(value));
        break;
      case "text":
        this.socket.deliver(value);
        break;
      case "control":
      case "binary": {
        const bytes = new TextEncoder().encode(name === "binary" ? value : JSON.stringify(value));
        this.socket.deliver(bytes.buffer);
        break;
      }
      case "ping":
        this.socket.onping();
        break;
      case "closes":
        this.socket.end(...value);
        break;
      case "waits":
        await clock.advance(value);
        break;
      case "holds":
        this.socket.bufferedAmount = value;
        break;
      case "sends":
      case "ends": {
        const sent = name === "sends" ? this.stream.send(value) : this.stream.end();
        if (rejects === undefined) {
          sent.catch((error) => this.rejected.push(error.code));
        } else {
          await assert.rejects(sent, { code: rejects });
        }
        break;
      }
      case "program":
        if (value === "close") {
          void this.stream.close();
        } else if (value === "read") {
          void this.read();
        } else if (value === "abort") {
          this.controller.abort(this.reason);
        } else {
          this.stream.response().then(
            (response) => this.responses.push(response),
            (error) => this.rejected.push(error.code),
          );
        }
        break;
      case "takes":
        await settled();
        assert.deepEqual(this.socket.sent.splice(0), value);
        break;
      case "receives":
        await settled();
        assert.deepEqual(this.received.splice(0), value);
        break;
      case "responds":
        await settled();
        assert.deepEqual(this.responses, [value]);
        break;
      case "rejected":
        await settled();
        assert.deepEqual(this.rejected.splice(0), value);
        break;
      case "told":
        await settled();
        assert.deepEqual(this.told.splice(0), value);
        assert.equal(this.ended, null);
        break;
      case "done":
        await settled();
        assert.equal(this.isDone, true);
        break;
      case "client_closes":
        assert.equal(this.socket.closes[0]?.code, value ?? undefined);
        assert.equal(this.socket.closes.length > 0, true);
        break;
      case "over":
        await settled();
        assert.notEqual(this.ended, null);
        assert.equal(FakeWebSocket.dialled.length, this.dialled);
        this.checkEnd(value);
        break;
      default:
        assert.fail(`there is no step '${name}'`);
    }
  }

  checkEnd(expected) {
    const { error } = this.ended;
    if (expected === null) {
      assert.equal(error, null);
      assert.equal(this.failure, undefined);
      return;
    }
    assert.ok(error instanceof StreamError);
    for (const [name, value] of Object.entries(expected)) {
      assert.deepEqual(error[camel(name)], value, name);
    }
    if (this.failure !== undefined) {
      assert.equal(this.failure, this.controller.signal.aborted ? this.reason : error);
    }
  }
}

for (const scenario of scenarios) {
  for (const each of scenario.each ?? [{}]) {
    test(`${scenario.id} ${Object.values(each).map((value) => JSON.stringify(value)).join(" ")}`, async () => {
      const filled = fill(scenario, { ...each });
      const play = new Play(filled);
      for (const step of filled.steps) {
        const [[name, value]] = Object.entries(step);
        try {
          await play.step(name, value, step);
        } catch (error) {
          error.message = `${scenario.id}: ${scenario.when}: ${JSON.stringify(step)}: ${error.message}`;
          throw error;
        }
      }
      play.controller.abort(); // nothing of it may happen in the next
    });
  }
}

// What is so only in JavaScript.

test("a pause beyond what timers can wait is as long as they can", async () => {
  const play = new Play({ options: { reconnect: {} } });
  await play.step("dials", { after: 0 }, {});
  play.socket.accept("streamrt.v1");
  await play.step("control", { type: "error", code: "unavailable", message: "", retry_after: 1e9 }, {});
  play.socket.end(4503, "");
  await play.step("dials", { after: 2 ** 31 / 1000 - 0.001 }, {});
  play.controller.abort();
});

test("the positions of 64 topics and keys are kept, the newest ones", async () => {
  const play = new Play({ options: { reconnect: {} } });
  await play.step("dials", { after: 0 }, {});
  play.socket.accept("streamrt.v1");
  for (let key = 0; key < 70; key += 1) {
    const position = { topic: "t", key: String(key), position: "p", messages: 0 };
    await play.step("control", { type: "position", ...position }, {});
  }
  play.socket.end(1006, "");
  await play.step("dials", { after: 0.5 }, {});
  const resume = JSON.parse(play.socket.headers["streamrt-resume"]);
  assert.deepEqual(
    resume.map(({ key }) => Number(key)),
    [...Array(70).keys()].slice(6),
  );
  play.controller.abort();
});
