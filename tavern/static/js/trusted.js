// The only way from text to something the browser runs or parses. Every other sink is closed by the server's policy
// (require-trusted-types-for 'script'). Two things pass: the address of our own stream worker, and a page of this very
// server that `fetchPage` has just fetched; nothing else can reach these functions.
let allowedHtml = null;
const workerUrl = new URL("./live-worker.js", import.meta.url).href;
const refuse = () => { throw new TypeError("not a trusted source"); };
const policy = globalThis.trustedTypes?.createPolicy("realm", {
  createHTML: (text) => (text === allowedHtml ? text : refuse()),
  createScript: refuse,
  createScriptURL: (url) => (url === workerUrl ? url : refuse()),
});

export function liveWorkerUrl() {
  return policy ? policy.createScriptURL(workerUrl) : workerUrl;
}

// Fetch a page of this server and return it as a document. Scripts in it do not run: the parser never runs any.
export async function fetchPage(address) {
  const url = new URL(address, location.href);
  if (url.origin !== location.origin) refuse();
  const reply = await fetch(url, { headers: { Accept: "text/html" }, redirect: "error" });
  if (!(reply.headers.get("content-type") || "").startsWith("text/html")) throw new Error("not a page");
  const text = await reply.text();
  allowedHtml = text;
  try {
    return new DOMParser().parseFromString(policy ? policy.createHTML(text) : text, "text/html");
  } finally {
    allowedHtml = null;
  }
}
