// A new job: from a dropped or chosen file, or made by a skill's generator. What the gatekeepers found is shown here.
import { Refused, get, newKey, send, upload } from "./api.js";
import { $, $$, bar, el } from "./dom.js";
import { size } from "./format.js";
import { on } from "./live.js";
import { fetchPage } from "./trusted.js";

const dialog = $("#newquest");
const form = $("#uploadform");
const input = $("#file");
const sendButton = $("#send");
let file = null;
let watched = null; // {upload, name}: what we wait for at the gate

// Tabs
for (const tab of $$("[data-tab]", dialog)) {
  tab.addEventListener("click", () => {
    for (const other of $$("[data-tab]", dialog)) other.setAttribute("aria-pressed", String(other === tab));
    for (const pane of $$("[data-pane]", dialog)) pane.hidden = pane.dataset.pane !== tab.dataset.tab;
  });
}

// Choosing and dropping: anywhere on any page
function choose(chosen) {
  file = chosen;
  $("#uploadname").hidden = !file;
  $("#uploadname").textContent = file ? `${file.name}, ${size(file.size)}` : "";
  const why = !file ? "Choose a file first." : file.size === 0 ? "This file is empty." : "";
  $("#sendwhy").textContent = why;
  $("#sendwhy").classList.toggle("bad", Boolean(file && why));
  sendButton.disabled = Boolean(why);
  $("#uploadstate").hidden = true;
  $("#checked").hidden = true;
}
input.addEventListener("change", () => choose(input.files[0] || null));

const carriesFiles = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
let depth = 0;
document.addEventListener("dragenter", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  depth += 1;
  $("#dropveil").hidden = false;
});
document.addEventListener("dragover", (event) => { if (carriesFiles(event)) event.preventDefault(); });
document.addEventListener("dragleave", (event) => {
  if (!carriesFiles(event)) return;
  depth -= 1;
  if (depth <= 0) { depth = 0; $("#dropveil").hidden = true; }
});
document.addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  depth = 0;
  $("#dropveil").hidden = true;
  const dropped = [...event.dataTransfer.files];
  if (!dropped.length) return;
  if (!dialog.open) dialog.showModal();
  $('[data-tab="upload"]', dialog).click();
  choose(dropped[0]);
  submit();
});

// Sending
function tell(words, bad = false) {
  $("#uploadstate").hidden = false;
  $("#uploadwords").textContent = words;
  $("#uploadwords").classList.toggle("bad", bad);
}

async function submit() {
  if (sendButton.disabled || !file) return;
  sendButton.disabled = true;
  const name = file.name;
  tell(`Sending ${name}.`);
  bar("upload", 0);
  early.length = 0;
  try {
    const received = await upload(file, form.elements.priority.value, newKey(), (share) => bar("upload", share));
    bar("upload", 1);
    tell(`${received.name} is safe. The gatekeepers look at it.`);
    watch({ upload: received.id, name: received.name, sha256: received.sha256 });
    file = null;
    input.value = "";
    $("#sendwhy").textContent = "Choose a file first.";
  } catch (error) {
    tell(words(error), true);
    sendButton.disabled = false;
  }
}
form.addEventListener("submit", (event) => { event.preventDefault(); submit(); });

const words = (error) => (error instanceof Refused ? [error.message, error.hint].filter(Boolean).join(" ") : "The page could not send it.");

// What the gate says: by the stream, and by asking in case the stream is away.
const early = [];
function watch(next) {
  watched = { ...next, until: Date.now() + 120000 };
  if (!early.some(arrived)) ask();
}

function arrived(event) {
  if (!watched || !["job_queued", "job_refused"].includes(event.kind)) return false;
  if (watched.job ? event.subject !== watched.job : event.data?.name !== watched.name) return false;
  show(event.subject);
  return true;
}
on((message) => {
  if (message.type !== "event") return;
  early.push(message);
  if (early.length > 30) early.shift();
  arrived(message);
});

async function ask() {
  const mine = watched;
  if (!mine?.upload || mine !== watched) return;
  try {
    const found = await get(`/api/v1/uploads/${mine.upload}`);
    if (mine !== watched) return;
    if (found.job) { show(found.job.id); return; }
  } catch { /* asked again below */ }
  if (Date.now() < mine.until) setTimeout(() => { if (mine === watched) ask(); }, 2000);
  else tell(`${mine.name} waits in the inbox. Is the arena running?`, true);
}

// The verdict, and from the job's own page what the gatekeepers found: the server alone puts a report into words.
async function show(jobId) {
  watched = null;
  $("#uploadstate").hidden = true;
  const link = el("a", "lnk", "The whole report");
  link.href = `/quests/${jobId}`;
  try {
    const job = await get(`/api/v1/jobs/${jobId}`);
    const refused = job.state === "refused";
    const told = refused ? [`${job.name} was turned away.`, job.reason?.message, job.reason?.hint] : [`${job.name} is on the board.`];
    const parts = [el("p", refused ? "bad-text" : "", told.filter(Boolean).join(" "))];
    const page = await fetchPage(link.href);
    for (const [id, title] of [["r-report", ""], ["r-tokens", "What is trained is underlined, the rest is masked"]]) {
      const part = page.getElementById(id);
      if (!part) continue;
      part.removeAttribute("id");
      part.removeAttribute("data-region");
      if (title && $(".tokens", part)) parts.push(el("h3", "", title));
      parts.push(document.adoptNode(part));
    }
    $("#checkedbody").replaceChildren(...parts, el("p", "", link));
  } catch (error) {
    $("#checkedbody").replaceChildren(el("p", "bad-text", words(error)), el("p", "", link));
  }
  $("#checked").hidden = false;
  $("#checked").scrollIntoView({ block: "nearest" });
}

// Making one
const make = $("#makeform");
if (make) {
  make.elements.skill.addEventListener("change", () => {
    const chosen = make.elements.skill.selectedOptions[0];
    make.elements.level.max = chosen.dataset.max;
    make.elements.level.value = chosen.dataset.level;
  });
  make.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = $("button.pri", make);
    const { skill, level, count, priority } = make.elements;
    const say = (text, bad = false) => { $("#makewords").textContent = text; $("#makewords").classList.toggle("bad", bad); };
    button.disabled = true;
    button.setAttribute("aria-busy", "true");
    say("Making the examples.");
    early.length = 0;
    try {
      const body = { generate: { skill: skill.value, level: Number(level.value), count: Number(count.value) }, priority: priority.value };
      const made = await send("POST", "/api/v1/jobs", body, { key: newKey() });
      say(`${made.name} is made. The gatekeepers look at it.`);
      if (made.job) show(made.job.id);
      else watch({ upload: made.id, name: made.name });
    } catch (error) {
      say(words(error), true);
    } finally {
      button.disabled = false;
      button.removeAttribute("aria-busy");
    }
  });
}
dialog.addEventListener("close", () => { watched = null; });
