// Buttons with an effect. A pressed one shows that it waits, at once; it settles only when the stream confirms; after
// 5 s without that it says so and comes back.
//   data-command="pause"                            a command to the battle; settles when its answer comes
//   data-post="/api/v1/…" or data-patch, data-body  settles with the event data-settles about data-subject
//   data-confirm, -text, -yes                       asks first; the safe choice has the focus
import { Refused, newKey, send } from "./api.js";
import { $, $$, herald } from "./dom.js";
import { isLive, on } from "./live.js";
import { afterRefresh, refreshSoon } from "./refresh.js";

const PATIENCE_MS = 5000;
const pending = new Map(); // data-key → {settles(event), label, timer}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-command], [data-post], [data-patch]");
  if (!button || button.disabled || pending.has(button.dataset.key)) return;
  event.preventDefault();
  if (button.dataset.confirm) ask(button);
  else act(button);
});

function ask(button) {
  const dialog = $("#confirm");
  $("#confirm-h").textContent = button.dataset.confirm;
  $("#confirm-t").textContent = button.dataset.confirmText;
  const yes = $("#confirm-yes");
  yes.textContent = button.dataset.confirmYes;
  yes.onclick = () => { dialog.close(); act(button); };
  $("#confirm-no").onclick = () => dialog.close();
  dialog.showModal();
}

async function act(button) {
  const { key, command, post, patch, wait } = button.dataset;
  const entry = { wait, settles: () => false, timer: 0, name: button.textContent.trim() || button.title || command };
  pending.set(key, entry);
  const menu = button.closest("details.more");
  if (menu) { menu.open = false; $("summary", menu).focus(); }
  paint();
  try {
    if (command) {
      const made = await send("POST", "/api/v1/commands", { verb: command }, { key: newKey() });
      entry.settles = (event) => event.kind === "command_applied" && (event.subject === made.id || event.data?.command_id === made.id) ? event : null;
    } else {
      const { settles, subject } = button.dataset;
      entry.settles = (event) => (event.kind === settles && (!subject || event.subject === subject) ? event : null);
      await send(post ? "POST" : "PATCH", post || patch, button.dataset.body ? JSON.parse(button.dataset.body) : {});
    }
    if (early.some((event) => settle(key, event))) return;
    entry.timer = setTimeout(() => {
      if (!pending.delete(key)) return;
      paint();
      refreshSoon(0);
      herald("brass", "schedule", "No answer yet", `${entry.name}: the arena has not confirmed it within 5 s. It may still come.`);
    }, PATIENCE_MS);
  } catch (error) {
    pending.delete(key);
    paint();
    refreshSoon(0);
    const words = error instanceof Refused ? [error.message, error.hint].filter(Boolean).join(" ") : "The page could not send it.";
    herald("rose", "cross", `Not done: ${entry.name}`, words, { stay: true });
  }
}

function settle(key, event) {
  const entry = pending.get(key);
  if (!entry?.settles(event)) return false;
  clearTimeout(entry.timer);
  pending.delete(key);
  const effect = event.data?.effect;
  if (event.kind === "command_applied" && (event.data?.state === "refused" || effect?.refused)) {
    herald("rose", "cross", `Not done: ${entry.name}`, event.words?.text || "The arena refused it.", { stay: true });
  }
  paint();
  refreshSoon(0);
  return true;
}

// The confirmation can overtake the answer to the request: the newest events are kept for a moment.
const early = [];
on((message) => {
  if (message.type === "link") paint();
  if (message.type !== "event") return;
  early.push(message);
  if (early.length > 30) early.shift();
  for (const key of [...pending.keys()]) settle(key, message);
});

function paint() {
  for (const button of $$("[data-live]")) {
    const entry = pending.get(button.dataset.key);
    if (entry && button.getAttribute("aria-busy") !== "true") {
      button.dataset.label = "";
      const label = $("span", button) || button;
      if (entry.wait && label.childElementCount === 0) { button.dataset.label = label.textContent; label.textContent = entry.wait; }
      button.setAttribute("aria-busy", "true");
      button.dataset.was = button.disabled ? "disabled" : "";
      button.disabled = true;
    } else if (!entry && button.getAttribute("aria-busy") === "true") {
      const label = $("span", button) || button;
      if (button.dataset.label) label.textContent = button.dataset.label;
      button.removeAttribute("aria-busy");
      button.disabled = button.dataset.was === "disabled";
    }
    if (!entry && !isLive() && document.body.dataset.link === "lost" && !button.disabled) {
      button.disabled = true;
      button.dataset.offline = "1";
    } else if (button.dataset.offline && isLive()) {
      delete button.dataset.offline;
      button.disabled = false;
    }
  }
}
afterRefresh(paint);
