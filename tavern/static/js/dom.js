// Small helpers over the page: values by name, bars, lists made of text. Text only ever becomes text.
export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
export const icons = new URL("../icons.svg", import.meta.url).pathname;

// set("loss", "0.412"): every [data-v=loss] follows.
export function set(name, text, { bump = false } = {}) {
  for (const element of $$(`[data-v="${name}"]`)) {
    if (element.textContent === text) continue;
    element.textContent = text;
    if (bump) {
      element.classList.remove("bump");
      void element.offsetWidth;
      element.classList.add("bump");
    }
  }
}

export function bar(name, share) {
  const percent = Math.max(0, Math.min(1, share)) * 100;
  for (const element of $$(`[data-bar="${name}"]`)) {
    for (const rect of $$("rect", element)) rect.setAttribute("width", `${percent.toFixed(2)}%`);
    if (element.hasAttribute("role")) element.setAttribute("aria-valuenow", String(Math.round(percent)));
  }
}

export function el(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

export function setIcon(svg, name) {
  svg.firstElementChild.setAttribute("href", `${icons}#${name}`);
}

export const shellData = JSON.parse($("#shell-data").textContent);

// One polite sentence per 5 s at most; an alarm at once.
let saidAt = 0;
export function say(text) {
  if (Date.now() - saidAt < 5000) return;
  saidAt = Date.now();
  $("#say").textContent = text;
}
export const shout = (text) => { $("#shout").textContent = text; };

export function herald(tone, icon, title, text, { stay = false } = {}) {
  const element = $("#t-herald").content.firstElementChild.cloneNode(true);
  element.classList.add(`t-${tone}`);
  setIcon($("svg", element), icon);
  $("b", element).textContent = title;
  $("p", element).textContent = text;
  $("button", element).addEventListener("click", () => element.remove());
  const box = $("#heralds");
  box.append(element);
  while (box.children.length > 3) box.firstElementChild.remove();
  if (!stay) setTimeout(() => element.remove(), 7000);
}
