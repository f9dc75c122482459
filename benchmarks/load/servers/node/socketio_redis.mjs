// Socket.IO over Redis, in workers of a cluster; all else is as in `socketio`.
//
// With WebSocket only, a client has one connection, so that it matters to nobody which worker gets it.

import cluster from "node:cluster";
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";
import { ordered, worker, WORKERS } from "./wire.mjs";

async function serve() {
  const publishing = createClient({ url: process.env.REDIS_URL });
  const subscribed = publishing.duplicate();
  await Promise.all([publishing.connect(), subscribed.connect()]);

  const server = createServer();
  const io = new Server(server, {
    adapter: createAdapter(publishing, subscribed),
    transports: ["websocket"],
    perMessageDeflate: false,
    serveClient: false,
  });

  io.on("connection", (socket) => {
    socket.once("hear", () => {
      socket.join("topic");
      socket.emit("message", worker(process.pid));
    });

    socket.once("tell", () => {
      socket.on("message", (order) => {
        for (const tick of ordered(order, (message) => message)) io.to("topic").emit("message", tick);
      });
      socket.emit("message", worker(process.pid));
    });
  });

  server.listen({ fd: 3 });
}

if (cluster.isPrimary) {
  for (let number = 0; number < WORKERS; number += 1) cluster.fork();
} else {
  await serve();
}
