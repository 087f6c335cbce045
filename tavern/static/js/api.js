// Requests with an effect: JSON, our header, an idempotency key on creation. A refusal becomes an Error in words.
export class Refused extends Error {
  constructor(status, problem) {
    super(problem?.detail || problem?.title || `the Tavern answered ${status}`);
    this.status = status;
    this.code = problem?.code || "";
    this.hint = problem?.hint || "";
  }
}

export const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");

export async function send(method, address, body, { key } = {}) {
  const headers = { Accept: "application/json", "X-Realm": "1", "Content-Type": "application/json" };
  if (key) headers["Idempotency-Key"] = key;
  let reply;
  try {
    reply = await fetch(address, { method, headers, body: JSON.stringify(body ?? {}) });
  } catch {
    throw new Refused(0, { detail: "The Tavern does not answer." });
  }
  const value = await reply.json().catch(() => null);
  if (!reply.ok) throw new Refused(reply.status, value);
  return value;
}

export async function get(address) {
  const reply = await fetch(address, { headers: { Accept: "application/json" } });
  const value = await reply.json().catch(() => null);
  if (!reply.ok) throw new Refused(reply.status, value);
  return value;
}

// Stream a file up, telling the share that was sent. fetch() cannot tell progress, so this is an XMLHttpRequest.
export function upload(file, priority, key, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const query = new URLSearchParams({ name: file.name, priority });
    request.open("POST", `/api/v1/jobs?${query}`);
    request.setRequestHeader("X-Realm", "1");
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.setRequestHeader("Idempotency-Key", key);
    request.upload.onprogress = (event) => { if (event.lengthComputable) progress(event.loaded / event.total); };
    request.onload = () => {
      let value = null;
      try { value = JSON.parse(request.responseText); } catch { /* an answer without a body */ }
      if (request.status >= 200 && request.status < 300) resolve(value);
      else reject(new Refused(request.status, value));
    };
    request.onerror = () => reject(new Refused(0, { detail: "The connection broke while the file was sent.", hint: "Nothing was added. Try again." }));
    request.send(file);
  });
}
