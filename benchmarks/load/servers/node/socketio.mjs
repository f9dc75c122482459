// Socket.IO on Node, over WebSocket only: objects, no types; its rooms for the fan-out.
//
// The first event of a client has the segments of the path. From then on all events are called `message`.

import { createServer } from "node:http";
import { setImmediate } from "node:timers/promises";
import { Server } from "socket.io";
import { ordered, READY } from "./wire.mjs";

const server = createServer();
const io = new Server(server, { transports: ["websocket"], perMessageDeflate: false, serveClient: false });

io.on("connection", (socket) => {
  socket.once("echo", () => {
    socket.on("message", (message) => socket.emit("message", message));
  });

  socket.once("count", () => {
    let count = 0;
    socket.on("message", ({ user }) => {
      if (user) count += 1;
      else socket.emit("message", { count });
    });
  });

  socket.once("topic", () => {
    socket.join("topic");
    socket.emit("message", READY);
  });

  socket.once("publish", () => {
    let published = Promise.resolve();
    socket.on("message", (order) => {
      published = published.then(() => publish(order));
    });
  });

  socket.once("chat", (room) => {
    socket.join(room);
    socket.emit("message", READY);
    socket.on("message", (message) => io.to(room).emit("message", message));
  });
});

async function publish(order) {
  for (const tick of ordered(order, (message) => message)) {
    io.to("topic").emit("message", tick);
    if (order.apart) await setImmediate();
  }
}

server.listen({ fd: 3 });
