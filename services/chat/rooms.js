// A member of a private room, who comes back by itself. Four rules make that nothing is lost and nothing is shown twice:
//
// - the stream hears its own messages too, and what it has heard of them is said;
// - what was not heard when the connection is back is sent again, under the same id;
// - what was said before, or while the server did not know this member, is asked of a second stream, once the first
//   one hears what is new;
// - a message of the same sender and the same id is the same message.

import { Client } from "/client.js";
import { elements, statusIn } from "/page.js";

const [enter, name, names, go, leave] = elements("enter", "name", "names", "go", "leave");
const [line, here, list, say, message, send] = elements("status", "here", "said", "say", "message", "send");
const status = statusIn(line);
name.value = new URLSearchParams(location.search).get("name") ?? "ada";

enter.addEventListener("submit", (event) => {
  event.preventDefault();
  void talk(name.value.trim(), names.value.trim());
});

async function talk(me, room) {
  const { chat } = new Client(location.origin, { headers: { authorization: `Bearer ${me}` } });
  const others = new AbortController(); // ends the streams beside the first: of the past, and of who is here
  const heard = new Set();
  const unheard = new Map(); // my messages, by id
  const mine = crypto.getRandomValues(new Uint32Array(2)).join("-"); // ids of this tab begin with it
  let past = null; // what was said before is shown once this is there
  let count = 0;

  const stream = chat.privateChat(
    { names: room, echo: true },
    { reconnect: { cap: 5 }, on: { ...status.on, back, recovered } },
  );
  status.follow(stream);
  list.replaceChildren();
  inside(true);
  leave.onclick = end;
  say.onsubmit = (event) => {
    event.preventDefault();
    if (message.value.trim() === "") return;
    count += 1;
    const whisper = { msg: message.value, id: `${mine}-${count}` };
    unheard.set(whisper.id, { whisper, item: show(me, whisper.msg, "mine pending") });
    put(whisper);
    message.value = "";
  };

  try {
    for await (const next of stream) {
      if (past === null) void watch();
      past ??= catchUp(); // the first message says that what is new is heard: now nothing falls between
      await past;
      hear(next);
    }
  } catch {
    // The status says it.
  } finally {
    end();
    for (const { item } of unheard.values()) item.append(" (not sent)");
    inside(false);
  }

  function end() {
    void stream.close();
    others.abort();
  }

  async function watch() {
    try {
      for await (const { names } of chat.members({ names: room }, { reconnect: true, signal: others.signal })) {
        here.textContent = `Here: ${names.join(", ")}`;
      }
    } catch {
      here.textContent = "";
    }
  }

  function put(whisper) {
    stream.send(whisper).catch(() => undefined); // it is sent again when the connection is back
  }

  function back() {
    status.on.back();
    for (const { whisper } of unheard.values()) put(whisper);
  }

  /** The server says whether all follows that was said meanwhile. If not, it has kept no more than it tells now. */
  function recovered(_topic, _key, all) {
    if (!all) {
      show("", "The server has forgotten what was said. What it knows follows.", "note");
      past = catchUp();
      past.catch(() => undefined); // the loop hears of it
    }
  }

  async function catchUp() {
    const before = chat.privateChat({ names: room, since: "oldest" }, { reconnect: true, signal: others.signal });
    try {
      for await (const next of before) {
        if (next.kind === "here") break; // it comes behind all that was kept
        hear(next);
      }
    } finally {
      void before.close();
    }
  }

  function hear(next) {
    if (next.kind !== "whispered") return;
    const key = `${next.by} ${next.id}`;
    if (next.id !== "" && heard.has(key)) return;
    heard.add(key);
    const own = next.by === me && unheard.get(next.id);
    if (own) {
      unheard.delete(next.id);
      own.item.classList.remove("pending");
      list.append(own.item); // where all others see it
    } else {
      show(next.by, next.msg, next.by === me ? "mine" : "");
    }
  }
}

function show(by, text, kind) {
  const item = Object.assign(document.createElement("li"), { className: kind });
  if (by !== "") item.append(Object.assign(document.createElement("b"), { textContent: by }));
  item.append(Object.assign(document.createElement("span"), { textContent: text }));
  list.append(item);
  list.scrollTop = list.scrollHeight;
  return item;
}

function inside(is) {
  for (const control of [name, names, go]) control.disabled = is;
  for (const control of [leave, message, send]) control.disabled = !is;
  if (is) message.focus();
}
