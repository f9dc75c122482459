/** Why a stream was refused or ended; the same codes in all languages. */
export type ErrorCode = "canceled" | "unknown" | "invalid_argument" | "deadline_exceeded" | "not_found" | "already_exists" | "permission_denied" | "resource_exhausted" | "failed_precondition" | "aborted" | "out_of_range" | "unimplemented" | "internal" | "unavailable" | "data_loss" | "unauthenticated";
/** What a stream ends with, when it does not end well. */
export declare class StreamError extends Error {
    readonly code: ErrorCode;
    /** What the server tells besides; null when it tells nothing. */
    readonly details: Readonly<Record<string, unknown>> | null;
    /** Seconds after which it makes sense to come back; null when the server has not said. */
    readonly retryAfter: number | null;
    /** The code of the Close; null when the error is of this side. */
    readonly closeCode: number | null;
    constructor(code: ErrorCode, message: string, more?: {
        details?: Readonly<Record<string, unknown>> | null;
        retryAfter?: number | null;
        closeCode?: number | null;
        cause?: unknown;
    });
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
/** What the streams of one client share. */
export declare class StreamDialer {
    #private;
    constructor(url: string | URL, options: ClientOptions);
    /** Encode a parameter of a path. */
    static segment(name: string, value: StreamFieldValue): string;
    /** Encode a parameter that is the rest of a path, slashes and all. */
    static segments(name: string, value: StreamFieldValue): string;
    /** Whether asking again may give other headers. */
    get renews(): boolean;
    headers(attempt: HeadersAttempt): Promise<HeaderFields>;
    dial(target: StreamTarget, headers: HeaderFields): WebSocketLike;
}
/** One stream, over as many connections as it takes. */
declare class StreamSession {
    #private;
    readonly ready: Promise<void>;
    readonly closed: Promise<StreamEnded>;
    state: StreamState;
    dialect: string;
    constructor(dialer: StreamDialer, target: StreamTarget, options: StreamOptions, resumes: boolean);
    /** What the WebSocket has taken and the network has not, in bytes. */
    get bufferedAmount(): number;
    /** Wait for the next message. */
    receive(): Promise<IteratorResult<unknown, undefined>>;
    /** Hand over one message. It resolves when the WebSocket has taken it. */
    send(text: string): Promise<void>;
    /** Say that no more messages come from this side. */
    end(): Promise<void>;
    /** End the stream from this side. */
    close(code: number, reason: string): Promise<StreamEnded>;
}
/** What every stream has. It connects at once; `await using` ends it with its block. */
declare abstract class AnyStream {
    protected readonly session: StreamSession;
    constructor(dialer: StreamDialer, target: StreamTarget, options?: StreamOptions, resumes?: boolean);
    /** Resolves when it is connected for the first time; rejects when it never will be. A refusal may come right after. */
    get ready(): Promise<void>;
    /** Resolves when the stream is over, and never rejects. */
    get closed(): Promise<StreamEnded>;
    get state(): StreamState;
    /** What the server speaks: `streamrt.v1` or `encore-ws`; empty before it is connected. */
    get dialect(): string;
    /**
     * End the stream, both ways: what has come and was not read is thrown away. It resolves when the server knows, or
     * after 5 seconds.
     */
    close(code?: number, reason?: string): Promise<StreamEnded>;
    [Symbol.asyncDispose](): Promise<void>;
}
/** A stream of messages that come in: `for await (const message of stream)`. Leaving the loop closes it. */
export declare class StreamIn<In> extends AnyStream implements AsyncIterable<In, undefined>, AsyncDisposable {
    [Symbol.asyncIterator](): AsyncIterator<In, undefined>;
}
/** A stream of messages both ways. Leaving a `for await` loop over it does not close it. */
export declare class StreamInOut<In, Out> extends AnyStream implements AsyncIterable<In, undefined>, AsyncDisposable {
    [Symbol.asyncIterator](): AsyncIterator<In, undefined>;
    /** Bytes that were sent and have not left this side yet: what progress has to leave out. */
    get bufferedAmount(): number;
    /**
     * Send one message. It resolves when the WebSocket has taken it and has room for more; whether it has arrived, only
     * the server could tell.
     */
    send(message: Out): Promise<void>;
    /** Say that no more messages come from this side, and go on receiving. It takes a server that speaks `streamrt.v1`. */
    end(): Promise<void>;
}
/** A stream of messages that go out, and of one response. */
export declare class StreamOutWithResponse<Out, Response> extends AnyStream implements AsyncDisposable {
    #private;
    constructor(dialer: StreamDialer, target: StreamTarget, options?: StreamOptions);
    /** Bytes that were sent and have not left this side yet: what progress has to leave out. */
    get bufferedAmount(): number;
    /** Send one message; see `StreamInOut.send`. */
    send(message: Out): Promise<void>;
    /** Say that no more messages come, as `response` does first. It takes a server that speaks `streamrt.v1`. */
    end(): Promise<void>;
    /**
     * Say that no more messages come, and wait for the response. It rejects when the stream ends without one. Over
     * `encore-ws` the server must know from the messages when it has them all.
     */
    response(): Promise<Response>;
}
export {};
