// Two boards, each of which shows what its worker has read, and how old that is.

import { elements, explain } from "/page.js";

const PACES = [0, 4000, 3000, 2000, 1500, 1000, 700, 500]; // messages a second; 0: as they come
const SECONDS = 60;
const pace = self.crossOriginIsolated ? new Int32Array(new SharedArrayBuffer(4)) : null;
const [slider, paced, chart] = elements("pace", "paced", "chart");
const panels = [...document.querySelectorAll("section")].map(watch);

slider.oninput = () => {
  const limit = PACES[slider.value];
  if (pace) Atomics.store(pace, 0, limit);
  if (pace) Atomics.notify(pace, 0);
  paced.textContent = limit ? `at most ${limit} messages a second` : "as fast as they come";
};
slider.oninput();
if (!pace) {
  slider.disabled = true;
  paced.textContent = "as fast as they come; to slow it down, open this page over https, or at localhost";
}

function watch(section) {
  const output = section.querySelector("output");
  const board = section.querySelector(".board");
  const cells = new Map();
  const panel = { section, points: [], read: 0, ended: false };

  function open() {
    const worker = new Worker("/reader.js", { type: "module" });
    Object.assign(panel, { ended: false, read: 0, rate: 0, behind: 0, missed: 0 });
    section.classList.remove("ended");
    worker.onmessage = ({ data }) => ("closed" in data ? close(worker, data.closed) : show(data));
    worker.postMessage({ endpoint: section.dataset.endpoint, pace });
  }

  function show({ read, moved, missed, behind }) {
    panel.read += read;
    Object.assign(panel, { missed, behind });
    for (const [symbol, cents] of Object.entries(moved)) draw(symbol, cents);
  }

  function draw(symbol, cents) {
    let cell = cells.get(symbol);
    if (!cell) {
      cell = document.createElement("div");
      board.insertBefore(cell, [...board.children].find((other) => other.symbol > symbol) ?? null);
      cell.symbol = symbol;
      cell.append(symbol, document.createElement("br"), "");
      cells.set(symbol, cell);
    }
    cell.className = cents === cell.cents ? "" : cents > cell.cents ? "up" : "down";
    cell.cents = cents;
    cell.lastChild.data = (cents / 100).toFixed(2);
  }

  function close(worker, error) {
    worker.terminate();
    panel.ended = true;
    section.classList.add("ended");
    const again = Object.assign(document.createElement("button"), { textContent: "Open again", onclick: open });
    again.className = "plain small";
    output.replaceChildren(`Closed. ${error ? explain(error) : "The server has ended it"}. `, again);
  }

  panel.tell = () => {
    const figure = Object.assign(document.createElement("b"), { textContent: `${(panel.behind / 1000).toFixed(1)} s` });
    const left = panel.missed ? `; ${panel.missed.toLocaleString("en")} were left out` : "";
    output.replaceChildren(figure, ` behind; ${Math.round(panel.rate)} messages a second${left}`);
  };
  open();
  return panel;
}

const ink = chart.getContext("2d");
let last = performance.now();

setInterval(() => {
  const now = performance.now();
  for (const panel of panels) {
    panel.rate = 0.7 * panel.rate + 0.3 * (panel.read / (now - last)) * 1000;
    panel.read = 0;
    if (!panel.ended) panel.tell();
    panel.points.push([now, panel.ended ? null : panel.behind / 1000]);
    while (panel.points[0][0] < now - SECONDS * 1000) panel.points.shift();
  }
  last = now;
  plot(now);
}, 250);

function plot(now) {
  const { clientWidth: width, clientHeight: height } = chart;
  [chart.width, chart.height] = [width * devicePixelRatio, height * devicePixelRatio];
  ink.scale(devicePixelRatio, devicePixelRatio);
  const seconds = panels.flatMap((panel) => panel.points.map(([, behind]) => behind));
  const top = Math.max(1, Math.ceil(Math.max(...seconds) * 1.1));
  ink.font = "12px system-ui";
  ink.fillStyle = "#888";
  ink.fillText(`${top} s behind`, 6, 16);
  ink.fillText("a minute ago", 6, height - 8);
  for (const panel of panels) {
    // A color is asked of an element: of a custom property one would get `light-dark(...)`, which a canvas cannot read.
    ink.strokeStyle = getComputedStyle(panel.section.querySelector("h2"), "::before").backgroundColor;
    ink.lineWidth = 2;
    ink.beginPath();
    let pen = "moveTo";
    for (const [at, behind] of panel.points) {
      if (behind === null) { pen = "moveTo"; continue; }
      ink[pen](width * (1 - (now - at) / (SECONDS * 1000)), (height - 2) * (1 - behind / top) + 1);
      pen = "lineTo";
    }
    ink.stroke();
  }
}
