// A log, one stream for each start.

import { Client } from "/client.js";
import { elements, statusIn } from "/page.js";

const SHOWN = 1000; // rows; the oldest make room
const client = new Client(location.origin);
const [form, rows, start, stop, follow] = elements("form", "rows", "start", "stop", "follow");
const [line, log, count] = elements("status", "log", "count");
const status = statusIn(line);

form.addEventListener("submit", (event) => {
  event.preventDefault();
  void read(rows.value);
});

async function read(wanted) {
  const stream = client.streaming.logs({ rows: wanted });
  status.follow(stream);
  stop.onclick = () => void stream.close();
  [start.disabled, stop.disabled] = [true, false];
  log.replaceChildren();
  let seen = 0;
  count.textContent = "no rows yet";
  try {
    for await (const { message } of stream) {
      seen += 1;
      append(message);
      count.textContent = `${seen} of ${wanted} rows`;
    }
  } catch {
    // The status says it.
  } finally {
    [start.disabled, stop.disabled] = [false, true];
  }
}

function append(message) {
  log.append(Object.assign(document.createElement("li"), { textContent: message }));
  if (log.childElementCount > SHOWN) log.firstElementChild.remove();
  if (follow.checked) log.scrollTop = log.scrollHeight;
}
