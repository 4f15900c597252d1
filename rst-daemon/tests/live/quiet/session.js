// Asks over one HTTP/2 session. Then it waits until the server ends the session
// with a GOAWAY, or closes or destroys the session itself.
//
// Arguments: URL, "wait", "close" or "destroy", requests.
const [url, how, count] = process.argv.slice(1);
const session = require("http2").connect(url, { rejectUnauthorized: false });
let goaway = false;
session.on("goaway", () => (goaway = true));

function ask() {
  return new Promise((resolve, reject) => {
    const request = session.request({ ":path": "/", ":authority": "test" });
    let body = "";
    request.on("data", (chunk) => (body += chunk));
    request.on("end", () => (body === "hello" ? resolve() : reject(new Error(body))));
    request.on("error", reject);
  });
}

async function main() {
  await Promise.all(Array.from({ length: Number(count) }, ask));
  const closed = new Promise((resolve) => session.on("close", resolve));
  if (how !== "wait") {
    session[how]();
  }
  await closed;
  if (how === "wait" && !goaway) {
    throw new Error("no GOAWAY");
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
