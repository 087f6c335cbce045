// One run's chart; while it runs it follows the stream.
import { LossChart, Series } from "./chart.js";
import { $ } from "./dom.js";
import { loss, whole } from "./format.js";
import { on } from "./live.js";

const run = $("#chart").dataset.run;
const series = new Series(JSON.parse($("#chart-data").textContent));
const chart = new LossChart($("#chart"), series, { table: $("#chart-table") });
chart.onhover = (at) => {
  $("#hover").textContent = at ? `step ${whole(at.step)}: ${loss(at.raw)} raw, ${loss(at.smooth)} smoothed` : "the whole run";
};
on((message) => {
  if (message.run_id !== run) return;
  if (message.type === "step") { series.add(run, message.points, message.loss_smooth); chart.drawSoon(); }
  if (message.type === "validation") { series.addValidation(message.step, message.val_loss); chart.drawSoon(); }
});
