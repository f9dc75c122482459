// `ws` on Node: text as it comes, no types; a loop over all clients for the fan-out.

import { on } from "node:events";
import { createServer } from "node:http";
import { setImmediate } from "node:timers/promises";
import { WebSocket, WebSocketServer } from "ws";
import { encode, flood, ordered, READY } from "./wire.mjs";

const rooms = new Map();
const bytes = (message) => Buffer.from(encode(message)); // so that it is encoded once for all

function join(room, socket) {
  const clients = rooms.get(room) ?? new Set();
  rooms.set(room, clients.add(socket));
  socket.on("close", () => clients.delete(socket));
  socket.send(encode(READY));
}

function broadcast(room, text) {
  for (const client of rooms.get(room) ?? []) {
    if (client.readyState === WebSocket.OPEN) client.send(text, { binary: false });
  }
}

const paths = {
  echo(socket) {
    socket.on("message", (text) => socket.send(text, { binary: false }));
  },

  flood(socket, size) {
    const text = encode(flood(Number(size)));
    const send = (error) => {
      if (!error) socket.send(text, send);
    };
    send();
  },

  count(socket) {
    let count = 0;
    socket.on("message", (text) => {
      if (JSON.parse(text).user) count += 1;
      else socket.send(encode({ count }));
    });
  },

  topic(socket) {
    join("topic", socket);
  },

  async publish(socket) {
    for await (const [text] of on(socket, "message", { close: ["close"] })) {
      const order = JSON.parse(text);
      for (const tick of ordered(order, bytes)) {
        broadcast("topic", tick);
        if (order.apart) await setImmediate();
      }
    }
  },

  chat(socket, room) {
    join(room, socket);
    socket.on("message", (text) => broadcast(room, text));
  },
};

const server = createServer();
const sockets = new WebSocketServer({ server, perMessageDeflate: false });
sockets.on("connection", (socket, request) => {
  const [path, argument] = request.url.split("/").slice(1);
  socket.on("error", console.error);
  paths[path](socket, argument);
});
server.listen({ fd: 3 });
