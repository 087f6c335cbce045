// Keeps the server the only one who writes markup: when something happened, this page is fetched again and every
// region ([data-region]) that differs takes the place of the old one. Focus, open menus and scroll positions stay.
import { $, $$ } from "./dom.js";
import { fetchPage } from "./trusted.js";

const LEAST_GAP_MS = 700;
let timer = 0;
let running = false;
let again = false;
let lastAt = 0;
const after = new Set();

// handler(document) is called once a refresh has been put into the page.
export const afterRefresh = (handler) => after.add(handler);

export function refreshSoon(delay = 120) {
  if (running) { again = true; return; }
  clearTimeout(timer);
  timer = setTimeout(run, Math.max(delay, lastAt + LEAST_GAP_MS - Date.now()));
}

async function run() {
  if (document.hidden) { again = true; return; }
  running = true;
  again = false;
  try {
    const fresh = await fetchPage(location.href);
    if ($("#shell-data", fresh)) put(fresh);
  } catch {
    again = false; // the link state tells of it; the next message tries again
  }
  lastAt = Date.now();
  running = false;
  if (again) refreshSoon();
}

document.addEventListener("visibilitychange", () => { if (!document.hidden && again) refreshSoon(0); });

document.addEventListener("toggle", () => { if (again && !running) refreshSoon(); }, true);

function put(fresh) {
  for (const region of $$("[data-region]")) {
    const next = fresh.getElementById(region.id);
    if (!next || next.isEqualNode(region) || busy(region)) continue;
    const focused = region.contains(document.activeElement) ? keyOf(document.activeElement) : "";
    const seen = new Set($$("[data-seq]", region).map((line) => line.dataset.seq));
    const adopted = document.adoptNode(next);
    region.replaceWith(adopted);
    if (seen.size) for (const line of $$("[data-seq]", adopted)) if (!seen.has(line.dataset.seq)) line.classList.add("new");
    if (focused) $(focused, adopted)?.focus({ preventScroll: true });
  }
  document.body.dataset.state = fresh.body.dataset.state;
  document.body.dataset.signature = fresh.body.dataset.signature;
  for (const handler of after) handler(fresh);
}

// A region in which somebody has a menu open is left alone; the refresh after it catches up.
function busy(region) {
  if (!$("details.more[open]", region)) return false;
  again = true;
  return true;
}

function keyOf(element) {
  if (element.dataset.key) return `[data-key="${CSS.escape(element.dataset.key)}"]`;
  if (element.id) return `#${CSS.escape(element.id)}`;
  if (element.matches("a[href]")) return `a[href="${CSS.escape(element.getAttribute("href"))}"]`;
  return "";
}
