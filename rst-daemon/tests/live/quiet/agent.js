// Asks twice on each of 5 kept connections, waiting in between until the agent
// has dropped them: after 300 ms idle, or earlier when the server closes.
//
// Arguments: http or https, server, port.
const [scheme, host, port] = process.argv.slice(1);
const web = require(scheme);
const agent = new web.Agent({ keepAlive: true, timeout: 300 });
const open = new Set();

function ask() {
  return new Promise((resolve, reject) => {
    const options = { host, port, agent, path: "/", rejectUnauthorized: false };
    const request = web.get(options, (response) => {
      let body = "";
      response.on("data", (chunk) => (body += chunk));
      response.on("end", () => (body === "hello" ? resolve() : reject(new Error(body))));
    });
    request.on("socket", (socket) => {
      if (!open.has(socket)) {
        open.add(socket);
        socket.on("close", () => open.delete(socket));
      }
    });
    request.on("error", reject);
  });
}

async function main() {
  for (let round = 0; round < 2; round++) {
    await Promise.all(Array.from({ length: 5 }, ask));
    while (open.size > 0) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

const deadline = setTimeout(() => process.exit(2), 10000);
main().then(
  () => clearTimeout(deadline),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
