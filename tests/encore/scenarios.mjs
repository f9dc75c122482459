/**
 * What happens between a client of Encore and the server, as a page or a program would write it.
 *
 * A scenario takes what connects, `connect(auth)`, and its parameters; it returns what it has seen, as JSON. It
 * knows no platform: the same functions run in Node and in a page.
 */

import { Client, path } from "./client.mjs";

export function play(WebSocket, base, scenario, parameters) {
  return scenarios[scenario]((auth) => new Client(WebSocket, base, auth), ...parameters);
}

const scenarios = {
  /** Open a stream, see what was agreed on, and leave. */
  async agree(connect, call, where = "/echo") {
    const stream = await connect().inOut(where, call);
    await stream.socket.next("open");
    const { protocol, extensions } = stream.socket.ws;
    stream.close();
    return { protocol, extensions, closed: await closing(stream) };
  },

  /** Say all words before the socket is open, and leave when the last has come back. */
  async talk(connect, words, where = "/echo") {
    const stream = await connect().inOut(where);
    const closed = closing(stream);
    for (const word of words) void stream.send({ word });
    const heard = [];
    for await (const { word } of stream) {
      heard.push(word);
      if (heard.length === words.length) stream.close();
    }
    return { heard, closed: await closed };
  },

  /** Say one thing, if there is any, and listen to the end. */
  async listen(connect, where, { call, auth, message, binary = false } = {}) {
    const stream = await connect(auth).inOut(where, call);
    const closed = closing(stream);
    if (binary) {
      await stream.socket.next("open");
      stream.socket.ws.send(new TextEncoder().encode(JSON.stringify(message)));
    } else if (message !== undefined) {
      await stream.send(message);
    }
    return { heard: await all(stream), closed: await closed };
  },

  /** Send the parts of an upload and wait for its response, and for nothing else. */
  async upload(connect, parts) {
    const stream = await connect().out("/upload");
    const closed = closing(stream);
    for (const part of parts) await stream.send(part);
    return { response: await stream.response(), again: await stream.response(), closed: await closed };
  },

  /** Ask with everything that a handshake can hold. */
  async handshake(connect, room, rest, call) {
    return all(await connect().in(path`/handshake/${room}/${rest}`, call));
  },

  /** Be somebody else with every connection. */
  async rename(connect, names, call) {
    const left = [...names];
    const client = connect(async () => ({ headers: { authorization: left.shift() } }));
    const known = [];
    for (const _ of names) known.push(...(await all(await client.in("/members", call))));
    return known;
  },

  /** Be refused: which a script learns from an event that says nothing. */
  async refused(connect, where, call) {
    const stream = await connect().in(where, call);
    const first = await stream.socket.next("open", "error");
    return first.type;
  },

  /** Be refused, and listen all the same: the loop has to end. */
  async refusedLoop(connect, where, call) {
    const stream = await connect().in(where, call);
    const closed = closing(stream);
    return { heard: await all(stream), closed: await closed };
  },

  /** Listen as somebody with a cookie. */
  async visit(connect, cookie) {
    document.cookie = cookie;
    return this.listen(connect, "/session");
  },

  /** Leave while messages are on their way that the server does not read; the page is closed when this returns. */
  async abandon(connect, word, times) {
    const stream = await connect().inOut("/late");
    for await (const _ of stream) break; // the handler is there
    for (let time = 0; time < times; time++) void stream.send({ word });
    return stream.socket.ws.bufferedAmount;
  },

  /** Leave while nothing happens; the page is closed when this returns. */
  async idle(connect) {
    const stream = await connect().inOut("/echo");
    await stream.send({ word: "here" });
    for await (const { word } of stream) return word;
  },
};

async function all(stream) {
  const heard = [];
  for await (const message of stream) heard.push(message);
  return heard;
}

async function closing(stream) {
  const { code, reason, wasClean } = await stream.socket.next("close");
  return { code, reason, clean: wasClean };
}
