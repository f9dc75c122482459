// An upload. What it shows as sent has left the browser; that it has arrived, only the response says.

import { Client } from "/client.js";
import { elements, statusIn } from "/page.js";

const PIECE = 48 * 1024; // bytes, a multiple of 3, so that the texts of all pieces together are base64 too
const client = new Client(location.origin);
const [form, file, start, cancel] = elements("form", "file", "start", "cancel");
const [line, progress, told, response] = elements("status", "progress", "told", "response");
const status = statusIn(line);

form.addEventListener("submit", (event) => {
  event.preventDefault();
  void upload(file.files[0]);
});

async function upload(chosen) {
  const giveUp = new AbortController();
  cancel.onclick = () => giveUp.abort();
  [start.disabled, cancel.disabled] = [true, false];
  response.replaceChildren();
  const stream = client.streaming.upload({ user: "a browser" }, { signal: giveUp.signal, on: status.on });
  status.follow(stream);
  let given = 0; // characters
  const all = Math.ceil(chosen.size / 3) * 4;
  const show = () => tell(Math.min(1, Math.max(0, given - stream.bufferedAmount) / (all || 1)), chosen.size);
  const showing = setInterval(show, 100);
  try {
    await stream.ready;
    for (let at = 0; at < chosen.size || at === 0; at += PIECE) {
      const data = await base64(chosen.slice(at, at + PIECE));
      await stream.send({ data, done: at + PIECE >= chosen.size });
      given += data.length;
    }
    const answer = await stream.response();
    show();
    response.textContent = `The server has answered: ${JSON.stringify(answer)}`;
  } catch (error) {
    show();
    response.textContent = giveUp.signal.aborted
      ? "Canceled: the server sees that you have left, and answers nothing."
      : `The upload has failed: ${error.message}.`;
  } finally {
    void stream.close();
    clearInterval(showing);
    [start.disabled, cancel.disabled] = [false, true];
  }
}

function tell(part, size) {
  progress.value = part;
  const whole = part === 1 ? ", all of it" : "";
  told.textContent = `${bytes(part * size)} of ${bytes(size)} sent${whole}`;
}

function bytes(count) {
  const unit = count < 1e6 ? "kB" : "MB";
  return `${(count / (unit === "kB" ? 1e3 : 1e6)).toFixed(1)} ${unit}`;
}

/** Read a part of a file as base64. */
function base64(part) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result).replace(/^[^,]*,/, "")); // data:...;base64,
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(part);
  });
}
