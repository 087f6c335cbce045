// Preferences of this browser: a cookie each, so that the server already sends the page in the chosen form.
import { $$ } from "./dom.js";
import { soundIsOn, turnSound } from "./sound.js";

const YEAR_S = 365 * 24 * 3600;
for (const button of $$("[data-pref]")) {
  button.addEventListener("click", () => {
    const { pref, value } = button.dataset;
    document.cookie = `realm_${pref}=${value}; Path=/; SameSite=Strict; Max-Age=${value ? YEAR_S : 0}`;
    location.reload();
  });
}
function paint() {
  for (const button of $$("[data-sound]")) button.setAttribute("aria-pressed", String((button.dataset.sound === "on") === soundIsOn()));
}
for (const button of $$("[data-sound]")) button.addEventListener("click", () => turnSound(button.dataset.sound === "on"));
document.addEventListener("realm-sound", paint);
paint();
