// The messages of ../../wire.py, to the byte.

const WORDS = "the quick brown fox jumps over it";
const TAG = "streaming";
const SMALL = 100;
const VARIANTS = 64;

export const WORKERS = 2;

export const encode = JSON.stringify;

export function message(user, size = SMALL) {
  const count = Math.floor(Math.floor((size - SMALL) / 2) / (encode(TAG).length + 1));
  const tags = ["a", "bc", ...Array(count).fill(TAG)];
  const bare = { user: "00000", text: "", ts: 1760000000.25, tags };
  const room = size - encode(bare).length;
  return { ...bare, user, text: `${WORDS} `.repeat(Math.floor(room / WORDS.length) + 1).slice(0, room) };
}

export const READY = message("ready");
export const worker = (pid) => message(String(pid % 100_000).padStart(5, "0"));
export const flood = (size) => message("00000", size);

const made = new Map();

// What is published, twice, so that any order is a slice of it; each as `convert` makes it, once.
export function ordered({ first, count, size }, convert) {
  if (!made.has(size)) {
    const ticks = Array.from({ length: VARIANTS }, (_, number) =>
      convert(message(String(number).padStart(5, "0"), size)),
    );
    made.set(size, [...ticks, ...ticks]);
  }
  return made.get(size).slice(first, first + count);
}
