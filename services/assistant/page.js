// Questions and answers over one stream: each answer has a number, by which its words are told apart and it is stopped.

import { Client } from "/client.js";
import { elements, explain, statusIn } from "/page.js";

const HOW = {
  whole: "",
  canceled: "stopped",
  busy: "too many answers at a time: wait for one of them, or stop it",
};
const [line, list, ask, prompt] = elements("status", "answers", "ask", "prompt");
const status = statusIn(line);
const running = new Map(); // what is shown of the answers that are not finished, by number
let count = 0;

const client = new Client(location.origin);
const stream = client.assistant.talk({
  reconnect: true, // each question stands for itself
  on: { ...status.on, lost },
});
status.follow(stream);

ask.addEventListener("submit", (event) => {
  event.preventDefault();
  if (prompt.value.trim() === "") return;
  const answer = (count += 1);
  const entry = { ...shown(answer, prompt.value), asked: false };
  running.set(answer, entry);
  stream.send({ kind: "ask", answer, prompt: prompt.value }).then(
    () => (entry.asked = true),
    (error) => finish(answer, explain(error)),
  );
  prompt.select();
});

try {
  for await (const message of stream) {
    if (message.kind === "token") {
      running.get(message.answer)?.text.append(message.text);
      list.scrollTop = list.scrollHeight;
    } else {
      finish(message.answer, HOW[message.how]);
    }
  }
} catch {
  // The status says it.
}
for (const answer of [...running.keys()]) finish(answer, "the stream is closed");

function lost(error, pause) {
  status.on.lost(error, pause);
  for (const [answer, { asked }] of [...running]) if (asked) finish(answer, "lost with the connection");
}

function finish(answer, why) {
  const { item, foot } = running.get(answer) ?? {};
  running.delete(answer);
  item?.setAttribute("aria-busy", "false");
  foot?.replaceChildren(why);
  foot?.toggleAttribute("hidden", why === "");
}

/** Show a question, and room for its answer. */
function shown(answer, question) {
  const asked = Object.assign(document.createElement("li"), { className: "mine", textContent: question });
  const item = document.createElement("li");
  const text = document.createElement("span");
  const foot = Object.assign(document.createElement("div"), { className: "foot" });
  const stop = Object.assign(document.createElement("button"), { className: "plain small", textContent: "Stop" });
  stop.onclick = () => {
    stop.disabled = true;
    stream.send({ kind: "cancel", answer }).catch(() => undefined); // without a connection there is no answer either
  };
  foot.append(stop);
  item.append(text, foot);
  item.setAttribute("aria-busy", "true");
  list.append(asked, item);
  list.scrollTop = list.scrollHeight;
  return { item, text, foot };
}
