// The stream as this tab sees it. `on(handler)` gets every message; {type: "link", state} tells "live" or "lost".
// Silence of 12 s is "no contact", which is not the same as a crash.
import { liveWorkerUrl } from "./trusted.js";

const SILENCE_MS = 12000;
const HIDDEN_MS = 30000;
const handlers = new Set();
let lastAt = Date.now();
let state = "connecting";
let worker = null;

export const on = (handler) => { handlers.add(handler); return () => handlers.delete(handler); };
export const isLive = () => state === "live";
export const lastHeard = () => new Date(lastAt);

function change(next) {
  if (next === state) return;
  state = next;
  document.body.dataset.link = next;
  for (const handler of handlers) handler({ type: "link", state: next });
}

function receive(message) {
  if (message.type === "link") {
    if (message.state === "lost") change("lost");
    return;
  }
  lastAt = Date.now();
  change("live");
  for (const handler of handlers) handler(message);
}

function direct() {
  let source = null;
  let timer = 0;
  const open = () => {
    source = new EventSource("/api/v1/events");
    source.onmessage = (event) => receive(JSON.parse(event.data));
    source.onerror = () => {
      change("lost");
      if (source?.readyState === EventSource.CLOSED) { source = null; setTimeout(() => source || open(), 2000); }
    };
  };
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(() => { source?.close(); source = null; }, HIDDEN_MS);
    else if (!source) open();
  });
  window.addEventListener("pagehide", () => { source?.close(); source = null; });
  window.addEventListener("pageshow", (event) => { if (event.persisted && !source) open(); });
  open();
}

export function start() {
  if ("SharedWorker" in window) {
    const connect = () => {
      worker = new SharedWorker(liveWorkerUrl(), "realm-live");
      worker.port.onmessage = (event) => receive(event.data);
      worker.onerror = () => { worker = null; direct(); };
      worker.port.start();
    };
    connect();
    window.addEventListener("pagehide", () => worker?.port.postMessage("bye"));
    window.addEventListener("pageshow", (event) => { if (event.persisted) connect(); });
  } else {
    direct();
  }
  setInterval(() => { if (Date.now() - lastAt > SILENCE_MS) change("lost"); }, 1000);
}
