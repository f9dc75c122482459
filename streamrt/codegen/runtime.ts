// What every generated client is built on: one stream over one WebSocket after another, in the dialect streamrt.v1,
// or in encore-ws where the server has no other. What it does when is said once, in docs/clients.md, and tried by the
// scenarios there. All times are in seconds.

/** Why a stream was refused or ended; the same codes in all languages. */
export type ErrorCode =
  | "canceled"
  | "unknown"
  | "invalid_argument"
  | "deadline_exceeded"
  | "not_found"
  | "already_exists"
  | "permission_denied"
  | "resource_exhausted"
  | "failed_precondition"
  | "aborted"
  | "out_of_range"
  | "unimplemented"
  | "internal"
  | "unavailable"
  | "data_loss"
  | "unauthenticated";

/** The Close that a server sends with each code; a Close without a known code in its reason is read by its number. */
const CLOSE_CODES: Readonly<Record<ErrorCode, number>> = {
  canceled: 4499,
  unknown: 4500,
  invalid_argument: 4400,
  deadline_exceeded: 4504,
  not_found: 4404,
  already_exists: 4409,
  permission_denied: 4403,
  resource_exhausted: 4429,
  failed_precondition: 4400,
  aborted: 4409,
  out_of_range: 4400,
  unimplemented: 4501,
  internal: 1011,
  unavailable: 4503,
  data_loss: 4500,
  unauthenticated: 4401,
};

const BY_CLOSE_CODE: Readonly<Record<number, readonly [ErrorCode, string]>> = {
  1001: ["unavailable", "the server went away"],
  1002: ["internal", "the server saw a protocol error"],
  1003: ["invalid_argument", "the server takes no data of this kind"],
  1006: ["unavailable", "the connection was lost"],
  1007: ["invalid_argument", "the server got text that is not UTF-8"],
  1008: ["permission_denied", "the server's policy forbids this"],
  1009: ["resource_exhausted", "a message was too big for the server"],
  1011: ["internal", "an internal error occurred"],
  1012: ["unavailable", "the server is restarting"],
  1013: ["unavailable", "the server is overloaded"],
  4400: ["invalid_argument", ""],
  4401: ["unauthenticated", ""],
  4403: ["permission_denied", ""],
  4404: ["not_found", ""],
  4409: ["aborted", ""],
  4429: ["resource_exhausted", ""],
  4499: ["canceled", ""],
  4500: ["unknown", ""],
  4501: ["unimplemented", ""],
  4502: ["unavailable", ""],
  4503: ["unavailable", ""],
  4504: ["deadline_exceeded", ""],
};

/** What a stream ends with, when it does not end well. */
export class StreamError extends Error {
  readonly code: ErrorCode;
  /** What the server tells besides; null when it tells nothing. */
  readonly details: Readonly<Record<string, unknown>> | null;
  /** Seconds after which it makes sense to come back; null when the server has not said. */
  readonly retryAfter: number | null;
  /** The code of the Close; null when the error is of this side. */
  readonly closeCode: number | null;

  constructor(
    code: ErrorCode,
    message: string,
    more: {
      details?: Readonly<Record<string, unknown>> | null;
      retryAfter?: number | null;
      closeCode?: number | null;
      cause?: unknown;
    } = {},
  ) {
    super(message, more.cause === undefined ? undefined : { cause: more.cause });
    this.name = "StreamError";
    this.code = code;
    this.details = more.details ?? null;
    this.retryAfter = more.retryAfter ?? null;
    this.closeCode = more.closeCode ?? null;
  }
}

/** How a stream has ended. */
export interface StreamEnded {
  /** The code of the Close; 1006 when the connection was lost. */
  readonly code: number;
  readonly reason: string;
  /** Null when it has ended well, or this side has closed it. */
  readonly error: StreamError | null;
}

export type HeaderFields = Readonly<Record<string, string>>;

/** What a function for headers is told. */
export interface HeadersAttempt {
  /** Whether the server has refused the credentials that were given last: do not give it the same again. */
  readonly rejected: boolean;
}

/** What this file needs of a WebSocket: what browsers have, and the `ws` package. */
export interface WebSocketLike {
  readonly protocol: string;
  readonly readyState: number;
  readonly bufferedAmount: number;
  binaryType: string;
  onopen: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  onerror: ((event: never) => void) | null;
  send(data: string | ArrayBuffer): void;
  close(code?: number, reason?: string): void;
}

export interface ClientOptions {
  /**
   * Headers of every stream, such as `authorization`: an object, or a function that is asked before each attempt to
   * connect. They are offered as a subprotocol, for a browser's script cannot set any.
   */
  readonly headers?: HeaderFields | ((attempt: HeadersAttempt) => HeaderFields | Promise<HeaderFields>) | undefined;
  /** Default: the global one. Node has none before version 22: give it that of the package `ws`. */
  readonly WebSocket?: (new (url: string, protocols: string[]) => WebSocketLike) | undefined;
}

/** How a stream comes back; each may be left out. */
export interface ReconnectOptions {
  /** The first pause is random, up to so many seconds; each further one up to twice as many. Default 0.5. */
  readonly base?: number | undefined;
  /** The longest pause, in seconds. Default 30. */
  readonly cap?: number | undefined;
  /** After so many seconds a connection counts as healthy, and pauses are short again. Default 10. */
  readonly healthy?: number | undefined;
  /** How many attempts there may be between two healthy connections. Default: any number. */
  readonly attempts?: number | undefined;
  /** How many of them may be for bugs of the server (1011). Default 3. */
  readonly bugs?: number | undefined;
  /** How many messages may wait for the connection to come back. Default 0: `send` rejects meanwhile. */
  readonly queue?: number | undefined;
}

/** What a program may want to know besides messages. */
export interface StreamEvents {
  /** The connection is lost; the next attempt is made after a pause of so many seconds. */
  lost?(error: StreamError, pause: number): void;
  /** There is a connection again. The handler has started afresh. */
  back?(): void;
  /**
   * Whether everything follows that a topic has published meanwhile; if not, the program has a gap. Not so as well when
   * the server itself may have missed some.
   */
  recovered?(topic: string, key: string, recovered: boolean): void;
  /**
   * This client has read too slowly, and the topic has left out so many messages; 0 when it is the server that may have
   * missed some, and nobody knows how many.
   */
  gap?(topic: string, key: string, missed: number): void;
  /** The server restarts, and closes this stream within so many seconds. */
  draining?(within: number): void;
}

export interface StreamOptions {
  /** Ends the stream, and whatever waits for it rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** Seconds for one attempt to connect, with the asking for headers. Default 10. */
  readonly connectTimeout?: number | undefined;
  /** Seconds from connecting to the first message; past them the connection counts as lost. Default: any. */
  readonly firstMessageTimeout?: number | undefined;
  /** Seconds in which something must be heard; past them the connection counts as lost. Default: any. */
  readonly silenceTimeout?: number | undefined;
  /** Whether to connect again. The handler then starts afresh, so it is for streams that can bear that. */
  readonly reconnect?: boolean | ReconnectOptions | undefined;
  /** How much may have come and not be read yet, in characters; past it the stream is ended. Default 16 Mi. */
  readonly inbox?: number | undefined;
  readonly on?: StreamEvents | undefined;
}

export type StreamState = "connecting" | "open" | "waiting" | "closed";

type StreamFieldValue = string | number | boolean | readonly (string | number | boolean)[] | null | undefined;
type StreamFields = Readonly<Record<string, StreamFieldValue>>;

/** Where a stream is. */
interface StreamTarget {
  readonly path: string;
  readonly query?: StreamFields;
  readonly headers?: StreamFields;
  /** Whether a response comes before the end. */
  readonly responds?: boolean;
}

const V1 = "streamrt.v1";
const END = new TextEncoder().encode('{"type":"end"}').buffer as ArrayBuffer;
/** Bytes that the WebSocket may hold before `send` waits: as many as a server holds for a client. */
const HIGH_WATER = 1 << 20;
/** Seconds until the WebSocket is asked again how much it holds: it does not tell by itself. */
const POLL = 0.01;
/** Seconds that a server has to answer a Close. */
const CLOSE_TIMEOUT = 5;
/** Topics and keys whose position is kept; a stream hears one or two. They travel in a header, so there is a limit. */
const MAX_POSITIONS = 64;
/** Characters that the messages of one position have together, but for the last of them. */
const MAX_HELD = 1 << 16;
/** What one message counts for besides its text. */
const MESSAGE_OVERHEAD = 64;
/** Beyond it, setTimeout does not wait at all. */
const LONGEST_TIMER = 2 ** 31 - 1;

/** Yield the fields that are there, with each of their texts. */
function* entries(fields: StreamFields | undefined): Generator<[string, string[]]> {
  for (const [name, value] of Object.entries(fields ?? {})) {
    if (value !== undefined && value !== null) {
      yield [name, (Array.isArray(value) ? value : [value]).map(String)];
    }
  }
}

/** Write JSON in ASCII, as headers need it. */
function ascii(value: unknown): string {
  return JSON.stringify(value).replace(
    /[\u007f-\uffff]/g,
    (character) => "\\u" + character.charCodeAt(0).toString(16).padStart(4, "0"),
  );
}

/** Return the subprotocol that carries headers. */
function tunnel(headers: HeaderFields): string {
  const encoded = btoa(ascii(headers)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return `encore.dev.headers.${encoded}`;
}

/** What the streams of one client share. */
export class StreamDialer {
  readonly #base: string;
  readonly #options: ClientOptions;

  constructor(url: string | URL, options: ClientOptions) {
    const parsed = new URL(url);
    const secure = { "ws:": false, "http:": false, "wss:": true, "https:": true }[parsed.protocol];
    if (secure === undefined) {
      throw new TypeError(`a server's URL is like 'ws://host:port' or 'https://host/path', not '${String(url)}'`);
    }
    this.#base = `${secure ? "wss" : "ws"}://${parsed.host}${parsed.pathname.replace(/\/$/, "")}`;
    this.#options = options;
  }

  /** Encode a parameter of a path. */
  static segment(name: string, value: StreamFieldValue): string {
    const text = String(value);
    if (text === "" || text === "." || text === "..") {
      throw new RangeError(`the path parameter '${name}' cannot be '${text}', as that is no segment of a path`);
    }
    return encodeURIComponent(text);
  }

  /** Encode a parameter that is the rest of a path, slashes and all. */
  static segments(name: string, value: StreamFieldValue): string {
    const parts = String(value).split("/");
    return parts.map((part) => (part === "" ? "" : StreamDialer.segment(name, part))).join("/");
  }

  /** Whether asking again may give other headers. */
  get renews(): boolean {
    return typeof this.#options.headers === "function";
  }

  async headers(attempt: HeadersAttempt): Promise<HeaderFields> {
    const { headers } = this.#options;
    return typeof headers === "function" ? await headers(attempt) : (headers ?? {});
  }

  dial(target: StreamTarget, headers: HeaderFields): WebSocketLike {
    const global = globalThis as unknown as { WebSocket?: NonNullable<ClientOptions["WebSocket"]> };
    const Constructor = this.#options.WebSocket ?? global.WebSocket;
    if (Constructor === undefined) {
      throw new TypeError("there is no WebSocket here: give the client one, as in { WebSocket } from 'ws'");
    }
    const query = [...entries(target.query)].flatMap(([name, texts]) => texts.map((text) => [name, text]));
    const all: Record<string, string> = { ...headers };
    for (const [name, texts] of entries(target.headers)) {
      if (texts.length > 0) {
        all[name] = texts.join(", ");
      }
    }
    const search = query.length > 0 ? `?${new URLSearchParams(query).toString()}` : "";
    const protocols = [V1, "encore-ws", ...(Object.keys(all).length > 0 ? [tunnel(all)] : [])];
    return new Constructor(this.#base + target.path + search, protocols);
  }
}

/** Read the error out of a Close; null when all is well. */
function errorOfClose(closeCode: number, reason: string): StreamError | null {
  if (closeCode === 1000 || closeCode === 1005) {
    return null;
  }
  const colon = reason.indexOf(": ");
  const name = reason.slice(0, Math.max(colon, 0));
  if (isErrorCode(name) && CLOSE_CODES[name] === closeCode) {
    return new StreamError(name, reason.slice(colon + 2), { closeCode });
  }
  const [code, text] = BY_CLOSE_CODE[closeCode] ?? ["unknown", ""];
  return new StreamError(code, reason || text || `the server closed with ${String(closeCode)}`, { closeCode });
}

function isErrorCode(name: string): name is ErrorCode {
  return Object.hasOwn(CLOSE_CODES, name);
}

/** What the code of a Close means for a stream that wants to come back. */
function wayBack(closeCode: number, retryAfter: number | null): "none" | "again" | "bug" | "credential" {
  if (closeCode === 1011) {
    return "bug";
  }
  if (closeCode === 4401) {
    return "credential";
  }
  if (closeCode === 4429) {
    return retryAfter === null ? "none" : "again";
  }
  return [1001, 1006, 1012, 1013].includes(closeCode) || (closeCode >= 4500 && closeCode < 4600) ? "again" : "none";
}

/** The server has sent what the dialect does not allow. */
class BrokenProtocol extends Error {}

/** The fields of a control, each asked for by its kind. */
class ControlFrame {
  readonly #fields: Readonly<Record<string, unknown>>;
  readonly type: string;

  constructor(data: unknown) {
    let parsed: unknown;
    try {
      parsed = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(data as ArrayBuffer));
    } catch {
      parsed = null;
    }
    if (!isObject(parsed) || typeof parsed["type"] !== "string") {
      throw new BrokenProtocol("a binary frame must be a JSON object in UTF-8 with a text 'type'");
    }
    this.#fields = parsed;
    this.type = parsed["type"];
  }

  text(name: string): string {
    const value = this.#fields[name];
    return typeof value === "string" ? value : this.#wrong(name);
  }

  number(name: string): number {
    const value = this.#fields[name];
    return typeof value === "number" && Number.isFinite(value) && value >= 0 ? value : this.#wrong(name);
  }

  count(name: string, most: number): number {
    const value = this.number(name);
    return Number.isInteger(value) && value <= most ? value : this.#wrong(name);
  }

  truth(name: string): boolean {
    const value = this.#fields[name];
    return typeof value === "boolean" ? value : this.#wrong(name);
  }

  object(name: string): Readonly<Record<string, unknown>> {
    const value = this.#fields[name];
    return isObject(value) ? value : this.#wrong(name);
  }

  optional<T>(name: string, read: (name: string) => T): T | null {
    return (this.#fields[name] ?? null) === null ? null : read.call(this, name);
  }

  #wrong(name: string): never {
    throw new BrokenProtocol(`the control '${this.type}' is wrong in '${name}'`);
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

interface Whereabouts {
  readonly topic: string;
  readonly key: string;
  readonly position: string;
}

/** The messages that a position has announced, until the last of them is there. */
interface HeldBatch {
  readonly at: Whereabouts;
  readonly messages: number;
  readonly held: Arrival[];
}

interface Arrival {
  readonly value: unknown;
  readonly size: number;
}

type InboxItem = Arrival | { readonly tell: () => void };

interface OutboxItem {
  /** Null is the end. */
  readonly text: string | null;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

interface WaitingReader {
  readonly resolve: (result: IteratorResult<unknown, undefined>) => void;
  readonly reject: (error: unknown) => void;
}

const DONE: IteratorResult<never, undefined> = { value: undefined, done: true };

type StreamTimer = "connect" | "first" | "silence" | "healthy" | "poll" | "pause" | "close";

/** One stream, over as many connections as it takes. */
class StreamSession {
  readonly ready: Promise<void>;
  readonly closed: Promise<StreamEnded>;
  state: StreamState = "connecting";
  dialect = "";

  readonly #dialer: StreamDialer;
  readonly #target: StreamTarget;
  readonly #options: StreamOptions;
  readonly #retry: Required<{ [Name in keyof ReconnectOptions]: number }> | null;
  /** Whether a new connection can go on where the one before was: not so for what has been uploaded. */
  readonly #resumes: boolean;
  readonly #events: StreamEvents;
  readonly #timers = new Map<StreamTimer, ReturnType<typeof setTimeout>>();
  readonly #positions = new Map<string, Whereabouts>();
  readonly #inbox: InboxItem[] = [];
  readonly #readers: WaitingReader[] = [];
  readonly #outbox: OutboxItem[] = [];
  readonly #abort = (): void => {
    this.#fail(this.#options.signal?.reason);
  };
  #setReady: () => void = () => undefined;
  #setFailed: (error: unknown) => void = () => undefined;
  #setClosed: (ended: StreamEnded) => void = () => undefined;

  #socket: WebSocketLike | null = null;
  /** Counts connections, so that what is late for one of them does nothing to the next. */
  #connection = 0;
  #wasOpen = false;
  #isClosing = false;
  #inboxSize = 0;
  /** Set once nothing more comes in; a failure is what it has ended with. */
  #input: { failure: unknown } | null = null;
  #ending: Promise<void> | null = null;
  #endSent = false;
  /** Topics and keys whose position was offered, and those of which this connection has heard. */
  #asked = new Set<string>();
  #begun = new Set<string>();
  #batch: HeldBatch | null = null;
  #error: StreamError | null = null;
  #drainedAt: number | null = null;
  #attempts = 0;
  #bugs = 0;
  #renewed = false;
  /** Whether credentials were refused, and there are none to follow them yet. */
  #rejected = false;

  constructor(dialer: StreamDialer, target: StreamTarget, options: StreamOptions, resumes: boolean) {
    const { reconnect, signal } = options;
    const wanted = reconnect === true ? {} : reconnect === false ? undefined : reconnect;
    this.#retry =
      wanted === undefined
        ? null
        : {
            base: wanted.base ?? 0.5,
            cap: wanted.cap ?? 30,
            healthy: wanted.healthy ?? 10,
            attempts: wanted.attempts ?? Infinity,
            bugs: wanted.bugs ?? 3,
            queue: wanted.queue ?? 0,
          };
    this.#dialer = dialer;
    this.#target = target;
    this.#options = options;
    this.#resumes = resumes;
    this.#events = options.on ?? {};
    this.ready = new Promise((resolve, reject) => {
      this.#setReady = resolve;
      this.#setFailed = reject;
    });
    this.ready.catch(() => undefined); // whoever does not wait for it hears of the failure elsewhere
    this.closed = new Promise((resolve) => {
      this.#setClosed = resolve;
    });
    if (signal?.aborted) {
      this.#abort();
    } else {
      signal?.addEventListener("abort", this.#abort, { once: true });
      void this.#connect();
    }
  }

  /** What the WebSocket has taken and the network has not, in bytes. */
  get bufferedAmount(): number {
    return this.#socket?.bufferedAmount ?? 0;
  }

  /** Wait for the next message. */
  receive(): Promise<IteratorResult<unknown, undefined>> {
    return new Promise((resolve, reject) => {
      this.#readers.push({ resolve, reject });
      this.#serve();
    });
  }

  /** Hand over one message. It resolves when the WebSocket has taken it. */
  send(text: string): Promise<void> {
    if (this.#ending !== null) {
      return Promise.reject(new StreamError("failed_precondition", "this side has said that it sends no more"));
    }
    return this.#put(text);
  }

  /** Say that no more messages come from this side. */
  end(): Promise<void> {
    if (this.#ending === null) {
      this.#ending = this.#put(null);
      this.#ending.catch(() => {
        this.#ending = null; // it was not said
      });
    }
    return this.#ending;
  }

  /** End the stream from this side. */
  close(code: number, reason: string): Promise<StreamEnded> {
    if (code !== 1000 && !(code >= 3000 && code < 5000)) {
      throw new RangeError(`a client may close with 1000 or 3000 to 4999, not with ${String(code)}`);
    }
    if (this.state === "closed" || this.#isClosing) {
      return this.closed;
    }
    const wasOpen = this.state === "open";
    if (wasOpen) {
      this.#socket?.close(code, reason); // first, as it may refuse the reason
    }
    this.#isClosing = true;
    this.#stopAll();
    this.#endInput(null);
    this.#rejectOutbox(0, new StreamError("canceled", "this side has closed the stream"));
    if (wasOpen) {
      this.#after("close", CLOSE_TIMEOUT, () => {
        this.#finish({ code: 1006, reason: "", error: null }, null);
      });
    } else {
      this.#finish({ code, reason, error: null }, null);
    }
    return this.closed;
  }

  // --- Connecting ---

  async #connect(): Promise<void> {
    const connection = (this.#connection += 1);
    const seconds = this.#options.connectTimeout ?? 10;
    this.state = "connecting";
    this.#after("connect", seconds, () => {
      this.#lose(new StreamError("deadline_exceeded", `there was no connection within ${String(seconds)} s`));
    });
    let headers: HeaderFields;
    try {
      headers = await this.#dialer.headers({ rejected: this.#rejected });
    } catch (cause) {
      if (connection === this.#connection) {
        this.#lose(new StreamError("unavailable", `the headers could not be had: ${String(cause)}`, { cause }));
      }
      return;
    }
    if (connection !== this.#connection) {
      return;
    }
    this.#rejected = false;
    this.#asked = new Set(this.#positions.keys());
    this.#begun = new Set();
    const resume = [...this.#positions.values()];
    try {
      this.#listen(
        this.#dialer.dial(this.#target, {
          ...headers,
          ...(resume.length > 0 ? { "streamrt-resume": ascii(resume) } : {}),
        }),
      );
    } catch (cause) {
      this.#fail(cause); // what cannot even be tried will not be better the next time
    }
  }

  #listen(socket: WebSocketLike): void {
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.#open(socket);
    };
    socket.onmessage = ({ data }: { data: unknown }) => {
      this.#hear();
      this.#take(data);
    };
    socket.onclose = ({ code, reason }: { code: number; reason: string }) => {
      this.#end(code, reason);
    };
    socket.onerror = () => undefined; // it says nothing, and a Close comes next
    const on: unknown = "on" in socket ? socket.on : undefined;
    if (typeof on === "function") {
      on.call(socket, "ping", () => {
        if (socket === this.#socket) {
          this.#hear(); // the package `ws` shows pings, a browser does not
        }
      });
    }
  }

  #open(socket: WebSocketLike): void {
    this.#stop("connect");
    this.state = "open";
    this.dialect = socket.protocol;
    if (this.#retry !== null) {
      this.#after("healthy", this.#retry.healthy, () => {
        this.#attempts = this.#bugs = 0;
        this.#renewed = false;
      });
    }
    const { firstMessageTimeout: seconds } = this.#options;
    if (seconds !== undefined) {
      this.#after("first", seconds, () => {
        this.#lose(new StreamError("deadline_exceeded", `no message came within ${String(seconds)} s`));
      });
    }
    this.#hear();
    if (this.#endSent && this.dialect === V1) {
      socket.send(END); // what was said holds for the new handler too
    }
    if (this.#wasOpen) {
      this.#tell(() => this.#events.back?.());
    }
    this.#wasOpen = true;
    this.#setReady();
    this.#pump();
  }

  #hear(): void {
    const { silenceTimeout: seconds } = this.#options;
    if (seconds !== undefined && this.state === "open" && !this.#isClosing) {
      this.#after("silence", seconds, () => {
        this.#lose(new StreamError("deadline_exceeded", `nothing was heard for ${String(seconds)} s`));
      });
    }
  }

  // --- What comes in ---

  #take(data: unknown): void {
    if (this.#isClosing) {
      return;
    }
    try {
      if (typeof data === "string") {
        this.#message(data);
      } else if (this.dialect === V1) {
        this.#control(new ControlFrame(data));
      }
    } catch (error) {
      if (!(error instanceof BrokenProtocol)) {
        throw error;
      }
      const failure = new StreamError("internal", `the server broke the protocol: ${error.message}`, {
        closeCode: 1002,
      });
      // A browser's script may not close with 1002.
      this.#socket?.close(4400, error.message);
      this.#finish({ code: 1002, reason: error.message, error: failure }, failure);
    }
  }

  #message(text: string): void {
    this.#stop("first");
    if (this.#input !== null) {
      throw new BrokenProtocol("a message came behind the end of them");
    }
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      throw new BrokenProtocol("a message is not JSON");
    }
    const message = { value, size: text.length + MESSAGE_OVERHEAD };
    if (this.#batch === null) {
      this.#deliver(message);
    } else {
      this.#hold(this.#batch, message);
    }
  }

  #control(control: ControlFrame): void {
    if (this.#batch !== null) {
      throw new BrokenProtocol("a control came amid the messages of a position");
    }
    switch (control.type) {
      case "end":
        if (this.#input !== null) {
          throw new BrokenProtocol("there was a second 'end'");
        }
        this.#input = { failure: null };
        this.#serve();
        break;
      case "error": {
        const code = control.text("code");
        this.#error = new StreamError(isErrorCode(code) ? code : "unknown", control.text("message"), {
          details: control.optional("details", control.object),
          retryAfter: control.optional("retry_after", control.number),
        });
        break;
      }
      case "drain": {
        const within = control.number("within");
        this.#drainedAt = now() + within;
        this.#tell(() => this.#events.draining?.(within));
        break;
      }
      case "position":
        this.#position(control);
        break;
      case "gap": {
        const [topic, key] = [control.text("topic"), control.text("key")];
        const missed = control.count("missed", Infinity);
        this.#inLine(() => this.#events.gap?.(topic, key, missed));
        break;
      }
    }
  }

  #position(control: ControlFrame): void {
    const at = { topic: control.text("topic"), key: control.text("key"), position: control.text("position") };
    const messages = control.count("messages", 64);
    const recovered = control.optional("recovered", control.truth);
    if (messages > 0 && this.#input !== null) {
      throw new BrokenProtocol("a position came behind the end of the messages");
    }
    if (recovered !== null) {
      // The first says how the topic begins, which is news only to who has asked; a later one, that it broke off.
      const name = nameOf(at);
      const isNews = this.#begun.has(name) ? !recovered : this.#asked.has(name);
      this.#begun.add(name);
      if (isNews) {
        this.#inLine(() => this.#events.recovered?.(at.topic, at.key, recovered));
      }
    }
    if (messages === 0) {
      this.#reach(at);
    } else {
      this.#batch = { at, messages, held: [] };
    }
  }

  /** Hold a message back until the last one of its position is there: so none comes twice, whenever it ends. */
  #hold({ at, messages, held }: HeldBatch, message: Arrival): void {
    if (held.reduce((sum, { size }) => sum + size - MESSAGE_OVERHEAD, 0) >= MAX_HELD) {
      throw new BrokenProtocol("the messages of a position must have 64 KiB together");
    }
    held.push(message);
    if (held.length === messages) {
      this.#batch = null;
      this.#reach(at);
      held.forEach((one) => {
        this.#deliver(one);
      });
    }
  }

  #reach(at: Whereabouts): void {
    const name = nameOf(at);
    this.#positions.delete(name);
    this.#positions.set(name, at);
    for (const oldest of [...this.#positions.keys()].slice(0, -MAX_POSITIONS)) {
      this.#positions.delete(oldest);
    }
  }

  #deliver(message: Arrival): void {
    if (this.#input !== null) {
      return;
    }
    this.#inbox.push(message);
    this.#inboxSize += message.size;
    this.#serve();
    const most = this.#options.inbox ?? 16 * 2 ** 20;
    if (this.#inboxSize > most) {
      const failure = new StreamError("resource_exhausted", `more than ${String(most)} characters wait to be read`);
      this.#socket?.close(4429, "the program reads too slowly");
      this.#finish({ code: 4429, reason: "the program reads too slowly", error: failure }, failure);
    }
  }

  /** Give messages to those who wait for them, and the end behind the last one. */
  #serve(): void {
    while (this.#readers.length > 0) {
      const incoming = this.#inbox.shift();
      if (incoming !== undefined && "tell" in incoming) {
        this.#tell(incoming.tell);
        continue;
      }
      if (incoming === undefined && this.#input === null) {
        return;
      }
      const reader = this.#readers.shift();
      if (incoming !== undefined) {
        this.#inboxSize -= incoming.size;
        reader?.resolve({ value: incoming.value, done: false });
      } else if (this.#input?.failure != null) {
        reader?.reject(this.#input.failure);
      } else {
        reader?.resolve(DONE);
      }
    }
  }

  /** Tell the program something, behind the messages that came before it. */
  #inLine(tell: () => void): void {
    if (this.#inbox.length === 0) {
      this.#tell(tell);
    } else {
      this.#inbox.push({ tell });
    }
  }

  /** Call the program. What it throws there is its own affair, and reported as of any event. */
  #tell(tell: () => void): void {
    queueMicrotask(tell);
  }

  // --- What goes out ---

  #put(text: string | null): Promise<void> {
    const most = this.#wasOpen && this.state !== "open" ? (this.#retry?.queue ?? 0) : Infinity;
    if (this.state === "closed" || this.#isClosing) {
      return Promise.reject(asError(this.#input?.failure ?? new StreamError("unavailable", "the stream is over")));
    }
    if (text !== null && this.#outbox.length >= most) {
      const [code, why] = most > 0 ? (["resource_exhausted", "the queue is full"] as const) : (["unavailable", ""] as const);
      return Promise.reject(new StreamError(code, `there is no connection now${why && `, and ${why}`}`));
    }
    return new Promise((resolve, reject) => {
      this.#outbox.push({ text, resolve, reject });
      this.#pump();
    });
  }

  #pump(): void {
    const socket = this.#socket;
    this.#stop("poll");
    while (socket?.readyState === 1 && this.state === "open" && socket.bufferedAmount <= HIGH_WATER) {
      const outgoing = this.#outbox.shift();
      if (outgoing === undefined) {
        return;
      }
      if (outgoing.text !== null) {
        socket.send(outgoing.text);
      } else if (this.dialect === V1) {
        socket.send(END);
        this.#endSent = true;
      } else {
        const why = "the server speaks encore-ws, and cannot be told that no more messages come";
        outgoing.reject(new StreamError("failed_precondition", why));
      }
      outgoing.resolve();
    }
    if (this.#outbox.length > 0 && this.state === "open") {
      this.#after("poll", POLL, () => {
        this.#pump();
      });
    }
  }

  #rejectOutbox(keep: number, error: unknown): void {
    for (const { reject } of this.#outbox.splice(keep)) {
      reject(error);
    }
  }

  // --- The end of a connection, and of the stream ---

  /** The Close is there. */
  #end(code: number, reason: string): void {
    const told = this.#error;
    const error =
      code === 1000 || told === null
        ? errorOfClose(code, reason)
        : new StreamError(told.code, told.message, {
            details: told.details,
            retryAfter: told.retryAfter,
            closeCode: code,
          });
    if (error === null || this.#isClosing) {
      this.#finish({ code, reason, error: null }, null);
    } else {
      this.#comeBack({ code, reason, error });
    }
  }

  /** Give the connection up: it is there no more, or of no use. */
  #lose(error: StreamError): void {
    this.#comeBack({ code: 1006, reason: "", error });
  }

  #comeBack(ended: StreamEnded & { readonly error: StreamError }): void {
    const retry = this.#retry;
    const way = wayBack(ended.code, ended.error.retryAfter);
    const hopeless =
      retry === null ||
      way === "none" ||
      (this.#wasOpen && !this.#resumes) ||
      this.#attempts >= retry.attempts ||
      (way === "bug" && this.#bugs >= retry.bugs) ||
      (way === "credential" && (this.#renewed || !this.#dialer.renews));
    if (hopeless) {
      this.#finish(ended, ended.error);
      return;
    }
    const drained = ended.code === 1012 && this.#drainedAt !== null ? Math.max(0, this.#drainedAt - now()) : 0;
    const jitter = way === "credential" ? 0 : Math.random() * Math.min(retry.cap, retry.base * 2 ** this.#attempts);
    const pause = (ended.error.retryAfter ?? drained) + jitter;
    this.#attempts += 1;
    this.#bugs += way === "bug" ? 1 : 0;
    this.#renewed ||= way === "credential";
    this.#rejected ||= way === "credential";
    this.#drop();
    this.state = "waiting";
    this.#batch = null; // it comes again, from the position before it
    this.#input = null;
    if (this.#wasOpen) {
      this.#rejectOutbox(retry.queue, ended.error);
    }
    this.#tell(() => this.#events.lost?.(ended.error, pause));
    this.#after("pause", pause, () => {
      void this.#connect();
    });
  }

  #fail(cause: unknown): void {
    const error = new StreamError("canceled", `this side has given up: ${String(cause)}`, { cause });
    this.#finish({ code: 1006, reason: "", error }, cause);
  }

  /** Leave a connection, without waiting for it. */
  #drop(): void {
    const socket = this.#socket;
    this.#socket = null;
    this.#connection += 1;
    this.#error = null;
    this.#drainedAt = null;
    this.#stopAll();
    if (socket !== null) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
  }

  #finish(ended: StreamEnded, failure: unknown): void {
    if (this.state === "closed") {
      return;
    }
    this.#drop();
    this.state = "closed";
    this.#options.signal?.removeEventListener("abort", this.#abort);
    this.#endInput(failure);
    const over = failure ?? new StreamError("unavailable", "the stream is over", { closeCode: ended.code });
    this.#rejectOutbox(0, over);
    this.#setFailed(over);
    this.#setClosed(ended);
  }

  #endInput(failure: unknown): void {
    if (this.#isClosing) {
      this.#inbox.length = this.#inboxSize = 0; // whoever closes wants no more
    }
    this.#input = { failure };
    this.#serve();
  }

  #after(name: StreamTimer, seconds: number, action: () => void): void {
    this.#stop(name);
    this.#timers.set(name, setTimeout(action, Math.min(seconds * 1000, LONGEST_TIMER)));
  }

  #stop(name: StreamTimer): void {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }

  #stopAll(): void {
    for (const name of this.#timers.keys()) {
      this.#stop(name);
    }
  }
}

function nameOf({ topic, key }: Whereabouts): string {
  return JSON.stringify([topic, key]);
}

function asError(failure: unknown): Error {
  return failure instanceof Error ? failure : new Error(String(failure), { cause: failure });
}

function now(): number {
  return performance.now() / 1000;
}

function toJson(message: unknown): string {
  const text = JSON.stringify(message) as string | undefined;
  if (text === undefined) {
    throw new TypeError(`a message must be JSON, not ${typeof message}`);
  }
  return text;
}

/** What every stream has. It connects at once; `await using` ends it with its block. */
abstract class AnyStream {
  protected readonly session: StreamSession;

  constructor(dialer: StreamDialer, target: StreamTarget, options: StreamOptions = {}, resumes = true) {
    this.session = new StreamSession(dialer, target, options, resumes);
  }

  /** Resolves when it is connected for the first time; rejects when it never will be. A refusal may come right after. */
  get ready(): Promise<void> {
    return this.session.ready;
  }

  /** Resolves when the stream is over, and never rejects. */
  get closed(): Promise<StreamEnded> {
    return this.session.closed;
  }

  get state(): StreamState {
    return this.session.state;
  }

  /** What the server speaks: `streamrt.v1` or `encore-ws`; empty before it is connected. */
  get dialect(): string {
    return this.session.dialect;
  }

  /**
   * End the stream, both ways: what has come and was not read is thrown away. It resolves when the server knows, or
   * after 5 seconds.
   */
  close(code = 1000, reason = ""): Promise<StreamEnded> {
    return this.session.close(code, reason);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** A stream of messages that come in: `for await (const message of stream)`. Leaving the loop closes it. */
export class StreamIn<In> extends AnyStream implements AsyncIterable<In, undefined>, AsyncDisposable {
  [Symbol.asyncIterator](): AsyncIterator<In, undefined> {
    return {
      next: () => this.session.receive() as Promise<IteratorResult<In, undefined>>,
      return: async () => {
        await this.close();
        return DONE;
      },
    };
  }
}

/** A stream of messages both ways. Leaving a `for await` loop over it does not close it. */
export class StreamInOut<In, Out> extends AnyStream implements AsyncIterable<In, undefined>, AsyncDisposable {
  [Symbol.asyncIterator](): AsyncIterator<In, undefined> {
    return { next: () => this.session.receive() as Promise<IteratorResult<In, undefined>> };
  }

  /** Bytes that were sent and have not left this side yet: what progress has to leave out. */
  get bufferedAmount(): number {
    return this.session.bufferedAmount;
  }

  /**
   * Send one message. It resolves when the WebSocket has taken it and has room for more; whether it has arrived, only
   * the server could tell.
   */
  async send(message: Out): Promise<void> {
    await this.session.send(toJson(message));
  }

  /** Say that no more messages come from this side, and go on receiving. It takes a server that speaks `streamrt.v1`. */
  async end(): Promise<void> {
    await this.session.end();
  }
}

/** A stream of messages that go out, and of one response. */
export class StreamOutWithResponse<Out, Response> extends AnyStream implements AsyncDisposable {
  readonly #responds: boolean;

  constructor(dialer: StreamDialer, target: StreamTarget, options: StreamOptions = {}) {
    super(dialer, target, options, false);
    this.#responds = target.responds ?? false;
  }

  /** Bytes that were sent and have not left this side yet: what progress has to leave out. */
  get bufferedAmount(): number {
    return this.session.bufferedAmount;
  }

  /** Send one message; see `StreamInOut.send`. */
  async send(message: Out): Promise<void> {
    await this.session.send(toJson(message));
  }

  /** Say that no more messages come, as `response` does first. It takes a server that speaks `streamrt.v1`. */
  async end(): Promise<void> {
    await this.session.end();
  }

  /**
   * Say that no more messages come, and wait for the response. It rejects when the stream ends without one. Over
   * `encore-ws` the server must know from the messages when it has them all.
   */
  async response(): Promise<Response> {
    this.session.end().catch(() => undefined); // how the stream ends says it better
    const { value, done } = await this.session.receive();
    if (done && this.#responds) {
      throw new StreamError("data_loss", "the stream ended without its response");
    }
    return value as Response;
  }
}
