// The Tavern's own numbers: every step moves the hero, the two bars and the chart.
import { get } from "./api.js";
import { LossChart, Series } from "./chart.js";
import { $, $$, bar, set } from "./dom.js";
import { fixed, loss, percent, rate, size, span, stat, whole } from "./format.js";
import { on } from "./live.js";

const LEVEL = 1000;
const series = new Series(JSON.parse($("#chart-data").textContent));
const chart = new LossChart($("#chart"), series, { window: 2000, table: $("#chart-table") });
const windowText = () => (chart.window ? `last ${whole(chart.window)} steps` : "all steps");
chart.onhover = (at) => {
  const parts = at && [at.raw != null && `${loss(at.raw)} raw`, at.smooth != null && `${loss(at.smooth)} smoothed`, at.val != null && `${loss(at.val)} validation`];
  $("#hover").textContent = at ? `step ${whole(at.step)}: ${parts.filter(Boolean).join(", ")}` : windowText();
};
for (const button of $$("[data-window]")) {
  button.addEventListener("click", async () => {
    const wanted = Number(button.dataset.window);
    for (const other of $$("[data-window]")) other.setAttribute("aria-pressed", String(other === button));
    if (wanted === 0 && $("#r-hero").dataset.hero) {
      const all = await get(`/charts/loss?hero=${encodeURIComponent($("#r-hero").dataset.hero)}&window=0`).catch(() => null);
      if (all) series.load(all);
    }
    chart.setWindow(wanted);
    $("#hover").textContent = windowText();
  });
}

// Experience while a run goes on: what the hero had before it, which never changes, and the run's own steps. A status
// can read the two a moment apart, so that they disagree by a step or two; what most of them say is right.
const hadBefore = new Map(); // run → Map(experience before it → how often it was said)
function learn(run, xp, runStep) {
  if (!run || !Number.isFinite(xp)) return;
  if (!hadBefore.has(run)) hadBefore.set(run, new Map());
  const said = hadBefore.get(run);
  said.set(xp - runStep, (said.get(xp - runStep) || 0) + 1);
}
function before(run) {
  const said = [...(hadBefore.get(run) || [])];
  return said.length ? said.reduce((a, b) => (b[1] > a[1] ? b : a))[0] : null;
}
learn($("#r-versus").dataset.run, Number($("#r-hero").dataset.xp), Number($("#r-hero").dataset.runStep));

let val = null;
function experience(xp, perSecond) {
  const into = xp % LEVEL;
  set("level", whole(Math.floor(xp / LEVEL)));
  set("xp", whole(into));
  set("xp_total", whole(xp));
  bar("xp", into / LEVEL);
  set("next", perSecond ? `Next in ${span((LEVEL - into) / perSecond)}` : `${whole(LEVEL - into)} steps to the next`);
}

const steps = new Map(); // run → its newest step
function step(message) {
  steps.set(message.run_id, message.run_step);
  series.add(message.run_id, message.points, message.loss_smooth);
  chart.drawSoon();
  const smooth = message.loss_smooth;
  if (smooth) {
    set("loss", loss(smooth));
    set("stat_atk", stat(1 / smooth));
    if (val != null) set("gap", loss(val - smooth));
    $("#chart").setAttribute("aria-label", `Training loss by step, now ${loss(smooth)}; validation loss ${loss(val)}.`);
  }
  set("grad_norm", fixed(message.grad_norm, 2));
  set("lr", rate(message.lr));
  const versus = $("#r-versus");
  const most = message.max_steps || Number(versus.dataset.max);
  if (most && versus.dataset.run === message.run_id) {
    set("left", whole(Math.max(0, most - message.run_step)));
    bar("left", Math.max(0, most - message.run_step) / most);
  }
  const had = before(message.run_id);
  if (had !== null) experience(had + message.run_step, message.steps_per_s);
}

function status(now) {
  const { hero, battle, machine } = now;
  if (battle?.val_loss ?? hero?.val_loss) validation(battle?.val_loss ?? hero.val_loss);
  if (hero) {
    if (battle) {
      learn(battle.run_id, hero.xp, battle.run_step);
      experience(before(battle.run_id) + Math.max(battle.run_step, steps.get(battle.run_id) || 0), battle.state === "paused" ? null : battle.steps_per_s);
    } else {
      experience(hero.xp, null);
    }
    set("stat_acc", percent(hero.acc));
    if (hero.acc_total) set("acc_counts", `${whole(hero.acc_correct)}/${whole(hero.acc_total)}`);
    set("completed", `${whole(hero.completed)} x 100`);
    set("stat_gold", whole(hero.gold), { bump: true });
    if (!battle && hero.train_loss) { set("loss", loss(hero.train_loss)); set("stat_atk", stat(1 / hero.train_loss)); }
  }
  machines(machine);
}

function validation(value) {
  if (typeof value !== "number") return;
  const changed = val != null && value !== val;
  val = value;
  set("val", loss(val), { bump: changed });
  set("stat_def", stat(1 / val), { bump: changed });
}

function machines(machine) {
  const load = machine.load[0];
  set("m_load", `${fixed(load, 1)} / ${machine.cpus}`);
  bar("m_load", load / machine.cpus);
  const gib = (n) => fixed(n / 2 ** 30, 1);
  set("m_memory", `${gib(machine.memory.used)}/${gib(machine.memory.total)} GiB`);
  bar("m_memory", machine.memory.used / machine.memory.total);
  set("m_disk", size(machine.disk.free));
  bar("m_disk", 1 - machine.disk.free / machine.disk.total);
  for (const gpu of machine.gpus || []) {
    if (gpu.busy_percent != null) { set(`m_gpu${gpu.index}`, `${whole(gpu.busy_percent)}%`); bar(`m_gpu${gpu.index}`, gpu.busy_percent / 100); }
    if (gpu.memory_total) { set(`m_vram${gpu.index}`, `${gib(gpu.memory_used)}/${gib(gpu.memory_total)} GiB`); bar(`m_vram${gpu.index}`, gpu.memory_used / gpu.memory_total); }
  }
}

const MARK_OF = { checkpoint_saved: "checkpoint", champion_changed: "champion", job_failed: "failed", nonfinite: "nonfinite", rollback: "rollback" };
on((message) => {
  if (message.type === "step") step(message);
  else if (message.type === "validation") { validation(message.val_loss); series.addValidation(message.step, message.val_loss); chart.drawSoon(); }
  else if (message.type === "status" || message.type === "snapshot") status(message.status);
  else if (message.type === "event" && MARK_OF[message.kind]) { series.mark(message.data.step, MARK_OF[message.kind]); chart.drawSoon(); }
});
