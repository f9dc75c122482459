// What the pages share: their elements by name, and how a stream is, as a dot and in words.

/**
 * Return the elements of these ids.
 *
 * @param {string[]} ids
 * @returns {any[]}
 */
export function elements(...ids) {
  return ids.map((id) => document.getElementById(id));
}

/** What each kind of error is to people; what the server says of it comes behind. */
const KINDS = {
  aborted: "That was given up",
  already_exists: "That is there already",
  canceled: "That was given up",
  data_loss: "Something was lost",
  deadline_exceeded: "That took too long",
  failed_precondition: "Not now",
  internal: "The server has made a mistake",
  invalid_argument: "The server does not understand",
  not_found: "The server has no such thing",
  out_of_range: "The server does not understand",
  permission_denied: "That is not allowed",
  resource_exhausted: "Too much",
  unauthenticated: "The server does not know you",
  unavailable: "The server is away",
  unimplemented: "The server cannot do that",
  unknown: "Something went wrong",
};

/** Say to people why a stream has ended; the code of the Close is for those who look it up. */
export function explain({ code, message, closeCode }) {
  return `${KINDS[code]}: ${message}${closeCode === null ? "" : ` (${closeCode})`}`;
}

/**
 * Show streams in an element of the class `status`, one after another.
 *
 * The stream's options take `on`, and `follow` takes the stream.
 */
export function statusIn(element) {
  let ticking;

  function show(state, words, seconds = "") {
    clearInterval(ticking);
    element.dataset.state = state;
    const said = Object.assign(document.createElement("span"), { textContent: words });
    const counted = Object.assign(document.createElement("span"), { textContent: seconds, className: "number" });
    counted.ariaHidden = "true"; // a screen reader would say every second
    element.replaceChildren(said, counted);
    return counted;
  }

  function wait(error, pause) {
    const until = performance.now() + pause * 1000;
    const left = () => Math.max(0, Math.ceil((until - performance.now()) / 1000));
    const counted = show("waiting", `waiting. ${explain(error)}`, `${left()} s`);
    ticking = setInterval(() => {
      counted.textContent = left() > 0 ? `${left()} s` : "now";
    }, 200);
  }

  return {
    on: { lost: wait, back: () => show("open", "open") },
    follow(stream) {
      show("connecting", "connecting");
      stream.ready.then(
        () => show("open", "open"),
        () => undefined, // `closed` says it
      );
      stream.closed.then(({ error }) => {
        const ours = error === null || (error.code === "canceled" && error.closeCode === null); // as by an AbortSignal
        show(ours ? "closed" : "failed", ours ? "closed" : `closed. ${explain(error)}`);
      });
    },
  };
}
