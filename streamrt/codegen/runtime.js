// What every generated client is built on: one stream over one WebSocket after another, in the dialect streamrt.v1,
// or in encore-ws where the server has no other. What it does when is said once, in docs/clients.md, and tried by the
// scenarios there. All times are in seconds.
/** The Close that a server sends with each code; a Close without a known code in its reason is read by its number. */
const CLOSE_CODES = {
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
const BY_CLOSE_CODE = {
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
    code;
    /** What the server tells besides; null when it tells nothing. */
    details;
    /** Seconds after which it makes sense to come back; null when the server has not said. */
    retryAfter;
    /** The code of the Close; null when the error is of this side. */
    closeCode;
    constructor(code, message, more = {}) {
        super(message, more.cause === undefined ? undefined : { cause: more.cause });
        this.name = "StreamError";
        this.code = code;
        this.details = more.details ?? null;
        this.retryAfter = more.retryAfter ?? null;
        this.closeCode = more.closeCode ?? null;
    }
}
const V1 = "streamrt.v1";
const END = new TextEncoder().encode('{"type":"end"}').buffer;
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
function* entries(fields) {
    for (const [name, value] of Object.entries(fields ?? {})) {
        if (value !== undefined && value !== null) {
            yield [name, (Array.isArray(value) ? value : [value]).map(String)];
        }
    }
}
/** Write JSON in ASCII, as headers need it. */
function ascii(value) {
    return JSON.stringify(value).replace(/[\u007f-\uffff]/g, (character) => "\\u" + character.charCodeAt(0).toString(16).padStart(4, "0"));
}
/** Return the subprotocol that carries headers. */
function tunnel(headers) {
    const encoded = btoa(ascii(headers)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
    return `encore.dev.headers.${encoded}`;
}
/** What the streams of one client share. */
export class StreamDialer {
    #base;
    #options;
    constructor(url, options) {
        const parsed = new URL(url);
        const secure = { "ws:": false, "http:": false, "wss:": true, "https:": true }[parsed.protocol];
        if (secure === undefined) {
            throw new TypeError(`a server's URL is like 'ws://host:port' or 'https://host/path', not '${String(url)}'`);
        }
        this.#base = `${secure ? "wss" : "ws"}://${parsed.host}${parsed.pathname.replace(/\/$/, "")}`;
        this.#options = options;
    }
    /** Encode a parameter of a path. */
    static segment(name, value) {
        const text = String(value);
        if (text === "" || text === "." || text === "..") {
            throw new RangeError(`the path parameter '${name}' cannot be '${text}', as that is no segment of a path`);
        }
        return encodeURIComponent(text);
    }
    /** Encode a parameter that is the rest of a path, slashes and all. */
    static segments(name, value) {
        const parts = String(value).split("/");
        return parts.map((part) => (part === "" ? "" : StreamDialer.segment(name, part))).join("/");
    }
    /** Whether asking again may give other headers. */
    get renews() {
        return typeof this.#options.headers === "function";
    }
    async headers(attempt) {
        const { headers } = this.#options;
        return typeof headers === "function" ? await headers(attempt) : (headers ?? {});
    }
    dial(target, headers) {
        const global = globalThis;
        const Constructor = this.#options.WebSocket ?? global.WebSocket;
        if (Constructor === undefined) {
            throw new TypeError("there is no WebSocket here: give the client one, as in { WebSocket } from 'ws'");
        }
        const query = [...entries(target.query)].flatMap(([name, texts]) => texts.map((text) => [name, text]));
        const all = { ...headers };
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
function errorOfClose(closeCode, reason) {
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
function isErrorCode(name) {
    return Object.hasOwn(CLOSE_CODES, name);
}
/** What the code of a Close means for a stream that wants to come back. */
function wayBack(closeCode, retryAfter) {
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
class BrokenProtocol extends Error {
}
/** The fields of a control, each asked for by its kind. */
class ControlFrame {
    #fields;
    type;
    constructor(data) {
        let parsed;
        try {
            parsed = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(data));
        }
        catch {
            parsed = null;
        }
        if (!isObject(parsed) || typeof parsed["type"] !== "string") {
            throw new BrokenProtocol("a binary frame must be a JSON object in UTF-8 with a text 'type'");
        }
        this.#fields = parsed;
        this.type = parsed["type"];
    }
    text(name) {
        const value = this.#fields[name];
        return typeof value === "string" ? value : this.#wrong(name);
    }
    number(name) {
        const value = this.#fields[name];
        return typeof value === "number" && Number.isFinite(value) && value >= 0 ? value : this.#wrong(name);
    }
    count(name, most) {
        const value = this.number(name);
        return Number.isInteger(value) && value <= most ? value : this.#wrong(name);
    }
    truth(name) {
        const value = this.#fields[name];
        return typeof value === "boolean" ? value : this.#wrong(name);
    }
    object(name) {
        const value = this.#fields[name];
        return isObject(value) ? value : this.#wrong(name);
    }
    optional(name, read) {
        return (this.#fields[name] ?? null) === null ? null : read.call(this, name);
    }
    #wrong(name) {
        throw new BrokenProtocol(`the control '${this.type}' is wrong in '${name}'`);
    }
}
function isObject(value) {
    return typeof value === "object" && value !== null && !Array.isArray(value);
}
const DONE = { value: undefined, done: true };
/** One stream, over as many connections as it takes. */
class StreamSession {
    ready;
    closed;
    state = "connecting";
    dialect = "";
    #dialer;
    #target;
    #options;
    #retry;
    /** Whether a new connection can go on where the one before was: not so for what has been uploaded. */
    #resumes;
    #events;
    #timers = new Map();
    #positions = new Map();
    #inbox = [];
    #readers = [];
    #outbox = [];
    #abort = () => {
        this.#fail(this.#options.signal?.reason);
    };
    #setReady = () => undefined;
    #setFailed = () => undefined;
    #setClosed = () => undefined;
    #socket = null;
    /** Counts connections, so that what is late for one of them does nothing to the next. */
    #connection = 0;
    #wasOpen = false;
    #isClosing = false;
    #inboxSize = 0;
    /** Set once nothing more comes in; a failure is what it has ended with. */
    #input = null;
    #ending = null;
    #endSent = false;
    /** Topics and keys whose position was offered, and those of which this connection has heard. */
    #asked = new Set();
    #begun = new Set();
    #batch = null;
    #error = null;
    #drainedAt = null;
    #attempts = 0;
    #bugs = 0;
    #renewed = false;
    /** Whether credentials were refused, and there are none to follow them yet. */
    #rejected = false;
    constructor(dialer, target, options, resumes) {
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
        }
        else {
            signal?.addEventListener("abort", this.#abort, { once: true });
            void this.#connect();
        }
    }
    /** What the WebSocket has taken and the network has not, in bytes. */
    get bufferedAmount() {
        return this.#socket?.bufferedAmount ?? 0;
    }
    /** Wait for the next message. */
    receive() {
        return new Promise((resolve, reject) => {
            this.#readers.push({ resolve, reject });
            this.#serve();
        });
    }
    /** Hand over one message. It resolves when the WebSocket has taken it. */
    send(text) {
        if (this.#ending !== null) {
            return Promise.reject(new StreamError("failed_precondition", "this side has said that it sends no more"));
        }
        return this.#put(text);
    }
    /** Say that no more messages come from this side. */
    end() {
        if (this.#ending === null) {
            this.#ending = this.#put(null);
            this.#ending.catch(() => {
                this.#ending = null; // it was not said
            });
        }
        return this.#ending;
    }
    /** End the stream from this side. */
    close(code, reason) {
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
        }
        else {
            this.#finish({ code, reason, error: null }, null);
        }
        return this.closed;
    }
    // --- Connecting ---
    async #connect() {
        const connection = (this.#connection += 1);
        const seconds = this.#options.connectTimeout ?? 10;
        this.state = "connecting";
        this.#after("connect", seconds, () => {
            this.#lose(new StreamError("deadline_exceeded", `there was no connection within ${String(seconds)} s`));
        });
        let headers;
        try {
            headers = await this.#dialer.headers({ rejected: this.#rejected });
        }
        catch (cause) {
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
            this.#listen(this.#dialer.dial(this.#target, {
                ...headers,
                ...(resume.length > 0 ? { "streamrt-resume": ascii(resume) } : {}),
            }));
        }
        catch (cause) {
            this.#fail(cause); // what cannot even be tried will not be better the next time
        }
    }
    #listen(socket) {
        this.#socket = socket;
        socket.binaryType = "arraybuffer";
        socket.onopen = () => {
            this.#open(socket);
        };
        socket.onmessage = ({ data }) => {
            this.#hear();
            this.#take(data);
        };
        socket.onclose = ({ code, reason }) => {
            this.#end(code, reason);
        };
        socket.onerror = () => undefined; // it says nothing, and a Close comes next
        const on = "on" in socket ? socket.on : undefined;
        if (typeof on === "function") {
            on.call(socket, "ping", () => {
                if (socket === this.#socket) {
                    this.#hear(); // the package `ws` shows pings, a browser does not
                }
            });
        }
    }
    #open(socket) {
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
    #hear() {
        const { silenceTimeout: seconds } = this.#options;
        if (seconds !== undefined && this.state === "open" && !this.#isClosing) {
            this.#after("silence", seconds, () => {
                this.#lose(new StreamError("deadline_exceeded", `nothing was heard for ${String(seconds)} s`));
            });
        }
    }
    // --- What comes in ---
    #take(data) {
        if (this.#isClosing) {
            return;
        }
        try {
            if (typeof data === "string") {
                this.#message(data);
            }
            else if (this.dialect === V1) {
                this.#control(new ControlFrame(data));
            }
        }
        catch (error) {
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
    #message(text) {
        this.#stop("first");
        if (this.#input !== null) {
            throw new BrokenProtocol("a message came behind the end of them");
        }
        let value;
        try {
            value = JSON.parse(text);
        }
        catch {
            throw new BrokenProtocol("a message is not JSON");
        }
        const message = { value, size: text.length + MESSAGE_OVERHEAD };
        if (this.#batch === null) {
            this.#deliver(message);
        }
        else {
            this.#hold(this.#batch, message);
        }
    }
    #control(control) {
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
    #position(control) {
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
        }
        else {
            this.#batch = { at, messages, held: [] };
        }
    }
    /** Hold a message back until the last one of its position is there: so none comes twice, whenever it ends. */
    #hold({ at, messages, held }, message) {
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
    #reach(at) {
        const name = nameOf(at);
        this.#positions.delete(name);
        this.#positions.set(name, at);
        for (const oldest of [...this.#positions.keys()].slice(0, -MAX_POSITIONS)) {
            this.#positions.delete(oldest);
        }
    }
    #deliver(message) {
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
    #serve() {
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
            }
            else if (this.#input?.failure != null) {
                reader?.reject(this.#input.failure);
            }
            else {
                reader?.resolve(DONE);
            }
        }
    }
    /** Tell the program something, behind the messages that came before it. */
    #inLine(tell) {
        if (this.#inbox.length === 0) {
            this.#tell(tell);
        }
        else {
            this.#inbox.push({ tell });
        }
    }
    /** Call the program. What it throws there is its own affair, and reported as of any event. */
    #tell(tell) {
        queueMicrotask(tell);
    }
    // --- What goes out ---
    #put(text) {
        const most = this.#wasOpen && this.state !== "open" ? (this.#retry?.queue ?? 0) : Infinity;
        if (this.state === "closed" || this.#isClosing) {
            return Promise.reject(asError(this.#input?.failure ?? new StreamError("unavailable", "the stream is over")));
        }
        if (text !== null && this.#outbox.length >= most) {
            const [code, why] = most > 0 ? ["resource_exhausted", "the queue is full"] : ["unavailable", ""];
            return Promise.reject(new StreamError(code, `there is no connection now${why && `, and ${why}`}`));
        }
        return new Promise((resolve, reject) => {
            this.#outbox.push({ text, resolve, reject });
            this.#pump();
        });
    }
    #pump() {
        const socket = this.#socket;
        this.#stop("poll");
        while (socket?.readyState === 1 && this.state === "open" && socket.bufferedAmount <= HIGH_WATER) {
            const outgoing = this.#outbox.shift();
            if (outgoing === undefined) {
                return;
            }
            if (outgoing.text !== null) {
                socket.send(outgoing.text);
            }
            else if (this.dialect === V1) {
                socket.send(END);
                this.#endSent = true;
            }
            else {
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
    #rejectOutbox(keep, error) {
        for (const { reject } of this.#outbox.splice(keep)) {
            reject(error);
        }
    }
    // --- The end of a connection, and of the stream ---
    /** The Close is there. */
    #end(code, reason) {
        const told = this.#error;
        const error = code === 1000 || told === null
            ? errorOfClose(code, reason)
            : new StreamError(told.code, told.message, {
                details: told.details,
                retryAfter: told.retryAfter,
                closeCode: code,
            });
        if (error === null || this.#isClosing) {
            this.#finish({ code, reason, error: null }, null);
        }
        else {
            this.#comeBack({ code, reason, error });
        }
    }
    /** Give the connection up: it is there no more, or of no use. */
    #lose(error) {
        this.#comeBack({ code: 1006, reason: "", error });
    }
    #comeBack(ended) {
        const retry = this.#retry;
        const way = wayBack(ended.code, ended.error.retryAfter);
        const hopeless = retry === null ||
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
    #fail(cause) {
        const error = new StreamError("canceled", `this side has given up: ${String(cause)}`, { cause });
        this.#finish({ code: 1006, reason: "", error }, cause);
    }
    /** Leave a connection, without waiting for it. */
    #drop() {
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
    #finish(ended, failure) {
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
    #endInput(failure) {
        if (this.#isClosing) {
            this.#inbox.length = this.#inboxSize = 0; // whoever closes wants no more
        }
        this.#input = { failure };
        this.#serve();
    }
    #after(name, seconds, action) {
        this.#stop(name);
        this.#timers.set(name, setTimeout(action, Math.min(seconds * 1000, LONGEST_TIMER)));
    }
    #stop(name) {
        clearTimeout(this.#timers.get(name));
        this.#timers.delete(name);
    }
    #stopAll() {
        for (const name of this.#timers.keys()) {
            this.#stop(name);
        }
    }
}
function nameOf({ topic, key }) {
    return JSON.stringify([topic, key]);
}
function asError(failure) {
    return failure instanceof Error ? failure : new Error(String(failure), { cause: failure });
}
function now() {
    return performance.now() / 1000;
}
function toJson(message) {
    const text = JSON.stringify(message);
    if (text === undefined) {
        throw new TypeError(`a message must be JSON, not ${typeof message}`);
    }
    return text;
}
/** What every stream has. It connects at once; `await using` ends it with its block. */
class AnyStream {
    session;
    constructor(dialer, target, options = {}, resumes = true) {
        this.session = new StreamSession(dialer, target, options, resumes);
    }
    /** Resolves when it is connected for the first time; rejects when it never will be. A refusal may come right after. */
    get ready() {
        return this.session.ready;
    }
    /** Resolves when the stream is over, and never rejects. */
    get closed() {
        return this.session.closed;
    }
    get state() {
        return this.session.state;
    }
    /** What the server speaks: `streamrt.v1` or `encore-ws`; empty before it is connected. */
    get dialect() {
        return this.session.dialect;
    }
    /**
     * End the stream, both ways: what has come and was not read is thrown away. It resolves when the server knows, or
     * after 5 seconds.
     */
    close(code = 1000, reason = "") {
        return this.session.close(code, reason);
    }
    async [Symbol.asyncDispose]() {
        await this.close();
    }
}
/** A stream of messages that come in: `for await (const message of stream)`. Leaving the loop closes it. */
export class StreamIn extends AnyStream {
    [Symbol.asyncIterator]() {
        return {
            next: () => this.session.receive(),
            return: async () => {
                await this.close();
                return DONE;
            },
        };
    }
}
/** A stream of messages both ways. Leaving a `for await` loop over it does not close it. */
export class StreamInOut extends AnyStream {
    [Symbol.asyncIterator]() {
        return { next: () => this.session.receive() };
    }
    /** Bytes that were sent and have not left this side yet: what progress has to leave out. */
    get bufferedAmount() {
        return this.session.bufferedAmount;
    }
    /**
     * Send one message. It resolves when the WebSocket has taken it and has room for more; whether it has arrived, only
     * the server could tell.
     */
    async send(message) {
        await this.session.send(toJson(message));
    }
    /** Say that no more messages come from this side, and go on receiving. It takes a server that speaks `streamrt.v1`. */
    async end() {
        await this.session.end();
    }
}
/** A stream of messages that go out, and of one response. */
export class StreamOutWithResponse extends AnyStream {
    #responds;
    constructor(dialer, target, options = {}) {
        super(dialer, target, options, false);
        this.#responds = target.responds ?? false;
    }
    /** Bytes that were sent and have not left this side yet: what progress has to leave out. */
    get bufferedAmount() {
        return this.session.bufferedAmount;
    }
    /** Send one message; see `StreamInOut.send`. */
    async send(message) {
        await this.session.send(toJson(message));
    }
    /** Say that no more messages come, as `response` does first. It takes a server that speaks `streamrt.v1`. */
    async end() {
        await this.session.end();
    }
    /**
     * Say that no more messages come, and wait for the response. It rejects when the stream ends without one. Over
     * `encore-ws` the server must know from the messages when it has them all.
     */
    async response() {
        this.session.end().catch(() => undefined); // how the stream ends says it better
        const { value, done } = await this.session.receive();
        if (done && this.#responds) {
            throw new StreamError("data_loss", "the stream ended without its response");
        }
        return value;
    }
}
