// The loss chart: a faint raw line under a smoothed one, validation dashed with open dots, events as dashed verticals.
// The y range comes from the smoothed line, the validation points and the 1st to 98th percentile of the raw line, so
// one spike does not flatten the curve; a clipped one leaves a tick at the top edge. A value that is not finite breaks
// the line. `Series` holds numbers and knows no canvas; `LossChart` draws them with uPlot.
import { $, el, icons } from "./dom.js";
import { loss as lossText, whole } from "./format.js";

const MARKS = {
  champion: ["crown", "--brass", 5], failed: ["skull", "--rose", 4], nonfinite: ["flask", "--violet", 4],
  rollback: ["flask", "--violet", 3], level: ["level", "--moss", 2], checkpoint: ["vault", "--brass", 1],
};
const MOST = 6000;
const finite = (n) => typeof n === "number" && Number.isFinite(n);

export class Series {
  constructor(data) { this.load(data); }

  load(data) {
    this.steps = [...data.steps];
    this.raw = [...data.loss];
    this.smooth = [...data.smooth];
    this.val = data.val.map(([step, value]) => [step, value]);
    this.marks = data.marks.map(([step, kind]) => ({ step, kind }));
    this.run = data.run_id;
    this.keep = data.keep;
  }

  // A run that went back to an older checkpoint writes its steps anew.
  cut(step) {
    let end = this.steps.length;
    while (end && this.steps[end - 1] >= step) end -= 1;
    for (const list of [this.steps, this.raw, this.smooth]) list.length = end;
  }

  // `mean` is the running mean after the last of the points.
  add(run, points, mean) {
    if (!points.length) return;
    const begins = run !== this.run;
    this.run = run;
    this.cut(points[0][0]);
    let fresh = begins;
    for (const [step, value] of points) {
      const last = this.smooth.at(-1);
      const gap = this.steps.length ? Math.max(1, step - this.steps.at(-1)) : 1;
      const weight = this.keep ** gap;
      this.steps.push(step);
      this.raw.push(finite(value) ? value : null);
      this.smooth.push(!finite(value) ? (last ?? null) : fresh || !finite(last) ? value : weight * last + (1 - weight) * value);
      fresh = false;
    }
    if (finite(mean)) this.smooth[this.smooth.length - 1] = mean;
    if (this.steps.length > MOST) for (const list of [this.steps, this.raw, this.smooth]) list.splice(0, MOST / 6);
  }

  addValidation(step, value) {
    this.val = this.val.filter(([known]) => known !== step);
    this.val.push([step, value]);
    this.val.sort((a, b) => a[0] - b[0]);
  }

  mark(step, kind) { if (finite(step) && MARKS[kind]) this.marks.push({ step, kind }); }

  // Columns for drawing: [steps, raw, smooth, validation] of the newest `window` steps (0: all).
  view(window) {
    const newest = this.steps.at(-1) ?? 0;
    const first = window ? newest - window : -Infinity;
    const rows = new Map();
    for (let i = 0; i < this.steps.length; i += 1) if (this.steps[i] > first) rows.set(this.steps[i], [this.raw[i], this.smooth[i], null]);
    for (const [step, value] of this.val) {
      if (step <= first || !finite(value)) continue;
      const row = rows.get(step) || [undefined, undefined, null];
      row[2] = value;
      rows.set(step, row);
    }
    const steps = [...rows.keys()].sort((a, b) => a - b);
    return [steps, ...[0, 1, 2].map((column) => steps.map((step) => rows.get(step)[column]))];
  }

  static range([, raw, smooth, val]) {
    const sorted = raw.filter(finite).sort((a, b) => a - b);
    const lines = [...smooth, ...val].filter(finite);
    if (!sorted.length && !lines.length) return [0, 1];
    const at = (share) => sorted[Math.floor((sorted.length - 1) * share)];
    let low = sorted.length ? at(0.01) : Infinity;
    let high = sorted.length ? at(0.98) : -Infinity;
    for (const value of lines) { low = Math.min(low, value); high = Math.max(high, value); }
    const pad = (high - low) * 0.14 || Math.max(0.01, high * 0.05);
    return [Math.max(0, low - pad), high + pad];
  }
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
let shapes = null;
async function loadShapes() {
  const text = await (await fetch(icons)).text();
  shapes = new Map();
  for (const [, name, path] of text.matchAll(/id="(\w+)"[^>]*><path[^>]* d="([^"]+)"/g)) shapes.set(name, new Path2D(path));
}

export class LossChart {
  constructor(element, series, { window: first = 0, table } = {}) {
    this.element = element;
    this.series = series;
    this.window = first;
    this.table = table;
    this.onhover = () => {};
    this.build();
    new ResizeObserver(() => this.fit()).observe(element);
    new MutationObserver(() => this.build()).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    matchMedia("(prefers-color-scheme: light)").addEventListener("change", () => this.build());
    table?.addEventListener("toggle", () => this.fillTable());
    document.fonts?.ready.then(() => this.plot?.redraw());
    if (!shapes) loadShapes().then(() => this.plot?.redraw(false)).catch(() => {});
  }

  build() {
    this.plot?.destroy();
    const [muted, rule, ember, sky, panel] = ["--muted", "--rule", "--ember", "--sky", "--panel"].map(css);
    const axis = { stroke: muted, font: '14px "Alegreya Sans"', grid: { stroke: rule, width: 1, dash: [2, 4] }, ticks: { show: false } };
    const short = (n) => (n >= 10000 ? `${(n / 1000).toFixed(n % 1000 ? 1 : 0)}k` : whole(n));
    this.plot = new globalThis.uPlot({
      width: 400, height: 200, padding: [8, 22, 0, 0], legend: { show: false },
      cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false } },
      scales: { x: { time: false }, y: { range: () => Series.range(this.shown) } },
      axes: [
        { ...axis, size: 30, space: 90, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 500000, 1000000], values: (_, ticks) => ticks.map(short) },
        { ...axis, size: 50, values: (_, ticks) => ticks.map((n) => n.toFixed(ticks.length > 1 && ticks[1] - ticks[0] < 0.01 ? 3 : 2)) },
      ],
      series: [
        {},
        { stroke: `${ember}66`, width: 1, points: { show: false } },
        { stroke: ember, width: 2.5, points: { show: false }, fill: `${ember}12` },
        { stroke: sky, width: 2, spanGaps: true, dash: [6, 4], points: { show: true, size: 8, width: 2, fill: panel, stroke: sky, space: 0 } },
      ],
      hooks: { draw: [(plot) => this.drawMarks(plot)], setCursor: [(plot) => this.hover(plot.cursor.idx)] },
    }, (this.shown = [[], [], [], []]), this.element);
    this.fit();
    this.draw();
  }

  fit() {
    const box = this.element.getBoundingClientRect();
    if (box.width > 60 && box.height > 60) this.plot.setSize({ width: Math.floor(box.width - 12), height: Math.floor(box.height - 6) });
  }

  setWindow(steps) { this.window = steps; this.draw(); }

  drawSoon() {
    this.due ??= setTimeout(() => { this.due = null; if (!document.hidden) this.draw(); }, 400);
  }

  draw() {
    this.shown = this.series.view(this.window);
    const none = $(".nodata", this.element);
    if (none) none.hidden = this.shown[0].length > 0;
    this.element.classList.toggle("none", Boolean(none) && !none.hidden);
    this.plot.setData(this.shown);
    if (this.table?.open) this.fillTable();
  }

  hover(index) {
    this.onhover(index == null || this.shown[0][index] == null ? null : { step: this.shown[0][index], raw: this.shown[1][index], smooth: this.shown[2][index], val: this.shown[3][index] });
  }

  // Icons closer than 13 px are merged into the most important one.
  drawMarks(plot) {
    const [c, ratio] = [plot.ctx, devicePixelRatio];
    const { left, top, width, height } = plot.bbox;
    const placed = [];
    for (const mark of [...this.series.marks].sort((a, b) => MARKS[b.kind][2] - MARKS[a.kind][2])) {
      const x = plot.valToPos(mark.step, "x", true);
      if (!finite(x) || x < left - 1 || x > left + width + 1 || placed.some((other) => Math.abs(other - x) < 13 * ratio)) continue;
      placed.push(x);
      const [icon, tone] = MARKS[mark.kind];
      const colour = css(tone);
      c.save();
      c.strokeStyle = `${colour}88`;
      c.lineWidth = ratio;
      c.setLineDash([3 * ratio, 3 * ratio]);
      c.beginPath();
      c.moveTo(x, top + 18 * ratio);
      c.lineTo(x, top + height);
      c.stroke();
      const shape = shapes?.get(icon);
      if (shape) {
        c.translate(Math.round(x - 6 * ratio), top);
        c.scale(ratio, ratio);
        c.fillStyle = colour;
        c.fill(shape);
      }
      c.restore();
    }
    const limit = plot.scales.y.max;
    c.save();
    c.fillStyle = css("--rose");
    for (let i = 0; i < this.shown[0].length; i += 1) {
      if (finite(this.shown[1][i]) && this.shown[1][i] > limit) c.fillRect(Math.round(plot.valToPos(this.shown[0][i], "x", true)) - ratio, top, 2 * ratio, 5 * ratio);
    }
    c.restore();
  }

  fillTable() {
    if (!this.table?.open) return;
    const [steps, raw, smooth] = this.shown;
    const every = Math.max(1, Math.ceil(steps.length / 60));
    const rows = [];
    for (let i = steps.length - 1; i >= 0 && rows.length < 60; i -= every) {
      rows.push(el("tr", "", el("td", "", whole(steps[i])), el("td", "num", lossText(raw[i])), el("td", "num", lossText(smooth[i]))));
    }
    $("tbody", this.table).replaceChildren(...rows);
  }
}
