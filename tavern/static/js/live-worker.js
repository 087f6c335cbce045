// One stream for the whole browser: this worker owns the EventSource and hands each message to every open tab.
// A tab that joins later is given the last snapshot and status, so that no second connection is opened for it.
const ports = new Set();
let source = null;
let last = { status: null, at: 0 };
let lastId = "";

function tell(message) {
  for (const port of ports) port.postMessage(message);
}

function open() {
  source = new EventSource("/api/v1/events");
  source.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (event.lastEventId) lastId = event.lastEventId;
    last.at = Date.now();
    if (message.type === "snapshot" || message.type === "status") last.status = message.status;
    tell(message);
  };
  source.onerror = () => {
    tell({ type: "link", state: "lost" });
    if (source.readyState === EventSource.CLOSED) {
      // refused for good (a session that ended): try again slowly, as the page says it does
      source.close();
      source = null;
      setTimeout(() => { if (ports.size && !source) open(); }, 2000);
    }
  };
}

self.onconnect = (event) => {
  const port = event.ports[0];
  ports.add(port);
  port.onmessage = (message) => {
    if (message.data !== "bye") return;
    ports.delete(port);
    if (!ports.size && source) {
      source.close();
      source = null;
      last = { status: null, at: 0 };
    }
  };
  if (!source) open();
  else if (last.status && Date.now() - last.at < 12000) port.postMessage({ type: "snapshot", seq: Number(lastId) || 0, status: last.status });
};
