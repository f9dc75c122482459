/**
 * What the clients that Encore generates do with a WebSocket, to the letter, for those who cannot carry one of
 * them along. The rules:
 *
 * - It offers `encore-ws`, and where the call has headers, one entry more that carries them. If the answer is not
 *   `encore-ws` exactly, the platform fails the connection.
 * - Text in a path is percent-encoded, values in the query are, and keys in the query are not. A call without
 *   values may have a bare `?`, or the headers `{}`.
 * - A frame is one JSON value. Whatever is none throws inside a listener, where nobody can catch it.
 * - What receives ends when the socket is closed, and not before: a Close alone ends nothing.
 * - What uploads takes the first frame for its response, and looks at no other.
 */

const DIALECT = "encore-ws";
const TUNNEL = "encore.dev.headers.";

export class Client {
  #WebSocket;
  #base;
  #auth;

  /** `auth` is `{ query, headers }`, or a function that is asked for them before every connection. */
  constructor(WebSocket, base, auth) {
    this.#WebSocket = WebSocket;
    this.#base = base;
    this.#auth = auth;
  }

  /** Open what the server declares as StreamInOut. */
  inOut(path, call) {
    return this.#open(StreamInOut, path, call);
  }

  /** Open what the server declares as StreamOut: here it comes in. */
  in(path, call) {
    return this.#open(StreamIn, path, call);
  }

  /** Open what the server declares as StreamIn: here it goes out. */
  out(path, call) {
    return this.#open(StreamOut, path, call);
  }

  async #open(Stream, path, { query, headers } = {}) {
    const auth = typeof this.#auth === "function" ? await this.#auth() : this.#auth;
    if (auth?.query) query = { ...query, ...auth.query };
    if (auth?.headers) headers = { ...headers, ...auth.headers };
    return new Stream(new Socket(this.#WebSocket, this.#base + path + search(query), subprotocols(headers)));
  }
}

/** A path with each value as one segment, and each list as several. */
export const path = (texts, ...values) =>
  String.raw({ raw: texts }, ...values.map((value) => [value].flat().map(encodeURIComponent).join("/")));

function search(query) {
  if (query === undefined) return "";
  const pairs = present(query).flatMap(([key, value]) => [value].flat().map((one) => [key, one]));
  return "?" + pairs.map(([key, value]) => `${key}=${encodeURIComponent(value)}`).join("&");
}

function subprotocols(headers) {
  if (headers === undefined) return [DIALECT];
  const lines = present(headers).map(([name, value]) => [name, [value].flat().join(", ")]);
  // btoa writes U+0080 to U+00FF as Latin-1, and takes nothing beyond.
  const encoded = btoa(JSON.stringify(Object.fromEntries(lines)));
  return [DIALECT, TUNNEL + encoded.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")];
}

const present = (record) => Object.entries(record).filter(([, value]) => value !== undefined);

class Socket {
  constructor(WebSocket, url, subprotocols) {
    this.ws = new WebSocket(url, subprotocols); // as it is, with http:
  }

  on(type, listener) {
    this.ws.addEventListener(type, listener);
  }

  next(...types) {
    return new Promise((resolve) => {
      for (const type of types) this.ws.addEventListener(type, resolve, { once: true });
    });
  }

  async send(message) {
    if (this.ws.readyState === this.ws.CONNECTING) await this.next("open");
    this.ws.send(JSON.stringify(message));
  }

  close() {
    this.ws.close();
  }
}

class StreamIn {
  #received = [];

  constructor(socket) {
    this.socket = socket;
    socket.on("message", (event) => this.#received.push(JSON.parse(event.data)));
  }

  async *[Symbol.asyncIterator]() {
    const { ws } = this.socket;
    for (;;) {
      if (this.#received.length > 0) yield this.#received.shift();
      else if (ws.readyState === ws.CLOSED) return;
      else await this.socket.next("message", "close");
    }
  }

  close() {
    this.socket.close();
  }
}

class StreamInOut extends StreamIn {
  send(message) {
    return this.socket.send(message);
  }
}

class StreamOut {
  #response;

  constructor(socket) {
    this.socket = socket;
    this.#response = new Promise((resolve) => socket.on("message", (event) => resolve(JSON.parse(event.data))));
  }

  send(message) {
    return this.socket.send(message);
  }

  response() {
    return this.#response;
  }

  close() {
    this.socket.close();
  }
}
