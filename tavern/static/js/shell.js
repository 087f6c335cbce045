// What every page does: the stream, the head-up display, heralds, the bell, dialogs, keys, local times.
import "./actions.js";
import "./newquest.js";
import { $, $$, herald, say, set, setIcon, shellData, shout } from "./dom.js";
import { clock, day, pace, span, spanRange, whole } from "./format.js";
import { lastHeard, on, start } from "./live.js";
import { afterRefresh, refreshSoon } from "./refresh.js";
import { play, soundIsOn, turnSound } from "./sound.js";

const SEEN = "realm-seen";
const AWAY_MS = 15 * 60 * 1000;
const ALARMS = new Set(["job_failed", "nonfinite", "out_of_memory", "disk_full", "service_broken", "job_refused"]);
const POLITE = new Set(["checkpoint_saved", "evaluation_recorded", "level_reached", "champion_changed", "job_completed", "run_paused", "run_resumed"]);
const STAYS = new Set([...ALARMS, "champion_changed"]);
const home = shellData.here === "tavern";

// Times are shown where the reader is, not where the server is.
function localTimes(root = document) {
  for (const time of $$("time[data-t]", root)) {
    if (!time.dateTime) continue;
    const date = new Date(time.dateTime);
    const text = time.dataset.t === "clock" ? clock(date) : day(date);
    if (time.textContent !== text) time.textContent = text;
  }
}

// The head-up display follows each step and each status.
let clearAt = null;
on((message) => {
  if (message.type === "step") {
    set("step", whole(message.step));
    set("pace", pace(message.steps_per_s));
    set("ends", spanRange(message.eta_s));
  } else if (message.type === "status" || message.type === "snapshot") {
    status(message.status);
    if (message.type === "snapshot" && message.resync) refreshSoon(0);
  } else if (message.type === "event") {
    happened(message);
  } else if (message.type === "link") {
    link(message.state);
  }
});

function status(now) {
  const battle = now.battle;
  if (battle) {
    set("step", whole(battle.step));
    if (battle.steps_per_s) set("pace", battle.state === "paused" ? "–" : pace(battle.steps_per_s));
    set("ends", battle.state === "paused" ? "–" : spanRange(battle.eta_s));
  }
  const eta = Array.isArray(now.queue.eta_s) ? now.queue.eta_s[1] : now.queue.eta_s;
  clearAt = eta && battle?.state !== "paused" ? new Date(Date.now() + eta * 1000) : null;
  set("clear", clearAt ? clock(clearAt) : "–");
  if (now.hero) set("gold", whole(now.hero.gold), { bump: true });
  if (signature(now) !== document.body.dataset.signature) refreshSoon();
}

// The same text as tavern/views/shell.py makes: when it changes, the page is drawn anew.
function signature(now) {
  return [
    now.battle ? `${now.battle.run_id}/${now.battle.state}` : "-",
    now.queue.held ? "held" : "",
    now.queue.jobs.map((job) => `${job.id}:${job.priority}`).join(","),
    String(now.queue.waiting),
    now.services.map((service) => `${service.name}=${service.state}`).join(","),
    now.notices.map((notice) => notice.code).join(","),
  ].join(";");
}

let lastSeq = shellData.seq;
function happened(event) {
  remember(event.seq);
  if (event.seq <= lastSeq) return;
  lastSeq = event.seq;
  refreshSoon();
  const title = shellData.plain ? event.words.plain_title || event.words.title : event.words.title;
  ring(event, title);
  play(event.kind);
  const sentence = [title, event.words.text].filter(Boolean).join(": ");
  if (ALARMS.has(event.kind)) shout(sentence);
  else if (POLITE.has(event.kind)) say(sentence);
  // The home page already shows what happened; elsewhere, and for what asks for an action, a herald comes.
  if (ALARMS.has(event.kind) || (!home && POLITE.has(event.kind))) {
    herald(event.words.tone, event.words.icon, title, event.words.text, { stay: STAYS.has(event.kind) && ALARMS.has(event.kind) });
  }
}

// The bell keeps what was told since the page was opened.
const bell = $("#bell");
function ring(event, title) {
  if (event.words.tone === "muted") return;
  const line = $("#t-line").content.firstElementChild.cloneNode(true);
  line.classList.add(`t-${event.words.tone}`);
  const at = new Date(event.at * 1000);
  $("time", line).textContent = clock(at);
  $("time", line).dateTime = at.toISOString();
  setIcon($("svg", line), event.words.icon);
  $("b", line).textContent = title;
  $("span span", line).textContent = event.words.text;
  const list = $("#belllist");
  $(".none", list)?.remove();
  list.prepend(line);
  while (list.children.length > 60) list.lastElementChild.remove();
  $(".dot", bell).hidden = false;
}
bell.addEventListener("click", () => {
  const list = $("#belllist");
  if (!list.children.length) {
    const none = document.createElement("li");
    none.className = "none mut";
    none.textContent = "Nothing since this page was opened.";
    list.append(none);
  }
  $(".dot", bell).hidden = true;
  $("#bells").showModal();
});

function link(state) {
  const chip = $("#link");
  chip.className = `svc link ${state === "live" ? "" : state === "lost" ? "bad" : "idle"}`;
  $("span", chip).textContent = state === "live" ? "Live" : state === "lost" ? "Stale" : "Joining";
  $("#lost").hidden = state !== "lost";
  if (state === "lost") {
    $("#lost-since").textContent = `Last heard ${clock(lastHeard())}.`;
    say("No contact with the arena. Showing the last known values.");
  } else if (state === "live") {
    refreshSoon(0);
  }
}

// While you were away
function remember(seq) {
  try {
    if (!document.hidden) localStorage.setItem(SEEN, JSON.stringify({ seq: Math.max(seq, lastSeq), at: Date.now() }));
  } catch { /* nothing is kept: there is no summary next time */ }
}
async function away() {
  let seen = null;
  try { seen = JSON.parse(localStorage.getItem(SEEN) || "null"); } catch { /* as if never seen */ }
  remember(shellData.seq);
  const box = $("#away");
  if (!box || !seen || Date.now() - seen.at < AWAY_MS || seen.seq >= shellData.seq) return;
  const reply = await fetch(`/charts/away?after=${seen.seq}`).catch(() => null);
  if (!reply?.ok) return;
  const found = await reply.json();
  if (!found.text) return;
  $("p", box).textContent = `While you were away (${span((Date.now() - seen.at) / 1000)}): ${found.text}.`;
  $("button", box).addEventListener("click", () => { box.hidden = true; });
  box.hidden = false;
}

// Sound
const soundButton = $("#sound");
function paintSound() {
  soundButton.setAttribute("aria-pressed", String(soundIsOn()));
  soundButton.title = `Sound is ${soundIsOn() ? "on" : "off"}`;
  setIcon($("svg", soundButton), soundIsOn() ? "sound" : "mute");
}
soundButton.addEventListener("click", () => turnSound(!soundIsOn()));
document.addEventListener("realm-sound", paintSound);
paintSound();

// Dialogs
document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-open]");
  if (opener) $(`#${opener.dataset.open}`).showModal();
  if (event.target.closest("[data-close]")) event.target.closest("dialog").close();
  if (event.target instanceof HTMLDialogElement) event.target.close(); // a click on the backdrop
  for (const menu of $$("details.more[open]")) if (!menu.contains(event.target)) menu.open = false;
});

// Keys: never while typing, never with a modifier, and they can be switched off.
const GO = { t: "/", q: "/quests", v: "/vault", c: "/chronicle", s: "/settings" };
let going = 0;
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") for (const menu of $$("details.more[open]")) { menu.open = false; $("summary", menu).focus(); }
  if (!shellData.keys || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const field = event.target.closest("input, textarea, select, [contenteditable]");
  if ($("dialog[open]") || field?.checkVisibility()) return; // a field in a dialog that was just closed does not count
  if (Date.now() - going < 1500 && GO[event.key]) { location.href = GO[event.key]; return; }
  going = event.key === "g" ? Date.now() : 0;
  if (event.key === "n") { event.preventDefault(); $("#newquest").showModal(); }
  if (event.key === "p") $('[data-command="pause"], [data-command="resume"]')?.click();
  if (event.key === "?") $("#keys").showModal();
});

afterRefresh(() => localTimes());
localTimes();
away();
start();

