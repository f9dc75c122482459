// A generated client and a real server: CLIENT is the module, URL the server, DIALECT what the client offers at most.

import assert from "node:assert/strict";
import { test } from "node:test";
import { WebSocket } from "ws";

const { Client, StreamError } = await import(process.env.CLIENT);
const { URL: url, DIALECT: dialect } = process.env;
const isV1 = dialect === "streamrt.v1";

class Offering extends WebSocket {
  constructor(address, protocols) {
    super(
      address,
      protocols.filter((of) => of !== "streamrt.v1" || isV1),
    );
  }
}

const { live } = new Client(url, { WebSocket: Offering });

async function all(stream) {
  const messages = [];
  for await (const message of stream) {
    messages.push(message);
  }
  return messages;
}

test("messages come in order, and the stream ends well", async () => {
  const stream = live.count({ end: 1000 });
  const values = (await all(stream)).map(({ value }) => value);
  assert.deepEqual(values, [...Array(1000).keys()]);
  assert.deepEqual(await stream.closed, { code: 1000, reason: "", error: null });
  assert.equal(stream.dialect, dialect);
  assert.equal(stream.state, "closed");
});

test("messages go both ways", async () => {
  const stream = live.echo();
  const messages = stream[Symbol.asyncIterator]();
  for (let value = 0; value < 10; value += 1) {
    await stream.send({ value });
    assert.deepEqual(await messages.next(), { value: { value }, done: false });
  }
  const { error } = await stream.close();
  assert.equal(error, null);
  assert.equal((await messages.next()).done, true);
});

test("an upload is ended by asking for the response", { skip: !isV1 }, async () => {
  const upload = live.add();
  for (let value = 1; value <= 100; value += 1) {
    await upload.send({ value });
  }
  assert.deepEqual(await upload.response(), { total: 5050 });
});

test("after a half-close the server still answers", { skip: !isV1 }, async () => {
  const stream = live.echo();
  await stream.send({ value: 1 });
  await stream.send({ value: 2 });
  await stream.end();
  assert.deepEqual(await all(stream), [{ value: 1 }, { value: 2 }, { value: -2 }]);
  await assert.rejects(stream.send({ value: 3 }), { name: "StreamError" });
});

test("encore-ws has no half-close", { skip: isV1 }, async () => {
  const stream = live.echo();
  await assert.rejects(stream.end(), { code: "failed_precondition" });
  await stream.close();
});

test("an error comes with all that belongs to it", async () => {
  const upload = live.add();
  await upload.send({ value: 1 });
  await upload.send({ value: 0 });
  const expected = { code: "resource_exhausted", message: "nothing is not counted", closeCode: 4429 };
  const more = isV1 ? { details: { "so far": 1 }, retryAfter: 3 } : { details: null, retryAfter: null };
  await assert.rejects(upload.response(), { name: "StreamError", ...expected, ...more });
  const { error } = await upload.closed;
  assert.ok(error instanceof StreamError);
});

test("a message that does not fit is an error that says where", async () => {
  const stream = live.echo();
  await stream.send({ value: "one" });
  await assert.rejects(all(stream), { code: "invalid_argument", message: /^\$\.value: expected an integer/ });
});

test("a refusal tells why, where the dialect can", async () => {
  const refused = all(live.who());
  await assert.rejects(
    refused,
    isV1
      ? { code: "unauthenticated", message: "the request does not have valid authentication credentials" }
      : { code: "unavailable", closeCode: 1006 },
  );
});

test("headers are asked for, and reach the auth handler", async () => {
  const headers = async ({ rejected }) => ({ authorization: `Bearer ada ${rejected} ü` });
  const client = new Client(new URL(url), { WebSocket: Offering, headers });
  assert.deepEqual(await all(client.live.who()), [{ name: "ada false ü" }]);
});

test("a handshake arrives as it was given", async () => {
  const handshake = {
    name: "a/b ü?",
    rest: "c d/e+f/%2F",
    ids: [1, -2],
    words: ["one", "two"],
    trace: "a&b",
    ratio: 1e21,
    on: false,
  };
  assert.deepEqual(await all(live.ask(handshake)), [handshake]);
  const least = { name: "a", rest: "", trace: "t" };
  assert.deepEqual(await all(live.ask(least)), [{ ...least, ids: [], words: [], ratio: 0.5, on: true }]);
});

test("what cannot be in a path is said at once", () => {
  for (const name of ["", ".", ".."]) {
    assert.throws(() => live.ask({ name, rest: "", trace: "t" }), RangeError);
  }
});

test("an abort ends the stream with its reason", async () => {
  const controller = new AbortController();
  const stream = live.wait({ signal: controller.signal });
  const messages = stream[Symbol.asyncIterator]();
  await messages.next();
  const waiting = messages.next();
  controller.abort(new Error("enough"));
  await assert.rejects(waiting, { message: "enough" });
  await assert.rejects(all(live.wait({ signal: AbortSignal.abort() })), { name: "AbortError" });
});

test("leaving a loop closes the stream", async () => {
  const stream = live.wait();
  for await (const { value } of stream) {
    assert.equal(value, 0);
    break;
  }
  assert.deepEqual(await stream.closed, { code: 1000, reason: "", error: null });
});

test("a stream is closed with its block", async () => {
  const stream = live.echo();
  await stream.ready;
  await stream[Symbol.asyncDispose]();
  assert.equal(stream.state, "closed");
});

test("a server that is not there is unavailable", async () => {
  const nowhere = new Client("ws://127.0.0.1:1", { WebSocket: Offering });
  const stream = nowhere.live.echo();
  await assert.rejects(stream.ready, { code: "unavailable" });
  await assert.rejects(stream.send({ value: 1 }), { code: "unavailable" });
});

test("an address that is none, and a place without WebSockets, are said", async () => {
  assert.throws(() => new Client("ftp://server"), TypeError);
  if (globalThis.WebSocket === undefined) {
    await assert.rejects(new Client(url).live.echo().ready, { name: "TypeError", message: /no WebSocket/ });
  }
});

test("only close codes that a client may use are taken", async () => {
  const stream = live.echo();
  assert.throws(() => stream.close(1001), RangeError);
  const { code, reason } = await stream.close(4000, "bye");
  assert.equal(code === 4000 || code === 1006, true);
  assert.equal(typeof reason, "string");
});

test("what was sent and has not left this side is told, for as long as there is a connection", async () => {
  class Full extends Offering {
    get bufferedAmount() {
      return 1234;
    }
  }
  const full = new Client(url, { WebSocket: Full });
  for (const open of [() => full.live.echo(), () => full.live.add()]) {
    const stream = open();
    assert.equal(stream.bufferedAmount, 0);
    await stream.ready;
    assert.equal(stream.bufferedAmount, 1234);
    await stream.close();
    assert.equal(stream.bufferedAmount, 0);
  }
});

test("a message has to be JSON", async () => {
  const stream = live.echo();
  await assert.rejects(stream.send(undefined), TypeError);
  await stream.close();
});

test("who comes back hears what was said meanwhile, once and in order", { skip: !isV1 }, async () => {
  const sockets = [];
  class Kept extends Offering {
    constructor(...all) {
      super(...all);
      sockets.push(this);
    }
  }
  const told = [];
  const on = { recovered: (...all) => told.push(all), back: () => told.push("back") };
  const client = new Client(url, { WebSocket: Kept });
  const ada = client.live.talk({ room: "größer" }, { reconnect: { base: 0.01 }, on });
  const bob = live.talk({ room: "größer" });
  const messages = ada[Symbol.asyncIterator]();
  const heard = async () => (await messages.next()).value.value;
  await ada.send({ value: 0 });
  assert.equal(await heard(), 0); // now she is there
  for (let round = 1; round <= 5; round += 1) {
    await bob.send({ value: 2 * round - 1 });
    assert.equal(await heard(), 2 * round - 1);
    sockets.at(-1).terminate();
    await bob.send({ value: 2 * round });
    assert.equal(await heard(), 2 * round);
    assert.deepEqual(told.splice(0), ["back", ["live.said", "größer", true]]);
  }
  await Promise.all([ada.close(), bob.close()]);
});
