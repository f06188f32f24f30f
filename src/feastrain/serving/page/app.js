// The planner's page: which series need a look, and one of them in depth.
// Everything it says comes from the API; names of entities too. Text is set, never parsed.

import { ask, askPanel, secondsOf, timeOf } from "./api.js";
import { align, drawSeries } from "./chart.js";
import { showDrivers, showFigures, showHorizon } from "./evidence.js";
import { save } from "./export.js";
import { $, day, make, quantileName, rows, signed, terms, told, whole, words } from "./format.js";
import * as table from "./table.js";
import { readLink, view, writeLink } from "./view.js";
import * as whatif from "./whatif.js";

const RANGES = [["1 year", "52"], ["2 years", "104"], ["all", "all"]];
const REFRESH_MS = 30000;
let panel = null, all = [], chosen = null, answer = null, tried = null, asked = 0, standing = null;

function problem(text) {
  $("problem").textContent = text ?? "";
  $("problem").hidden = !text;
}

/** Say how old what is shown is, and that it may be older than it should be. */
function stand(from) {
  standing = from ?? standing;
  if (standing) {
    const age = Math.floor((Date.now() - new Date(standing.cutoff)) / 86400000);
    $("known").textContent = `Known up to ${day.format(new Date(standing.cutoff))} (${whole.format(age)} days ago)`;
    $("stale").textContent = standing.stale
      ? `The forecast may be stale: it is of ${day.format(new Date(standing.cutoff))}, ${whole.format(age)} days ago, and the store could not be asked again. ${standing.stale}` : "";
  }
  $("stale").hidden = !standing?.stale;
}

// ---- all series ------------------------------------------------------------------------------

function rowOf(key, numbers) {
  const [at_risk, forecast, last_year, recent] = numbers;
  const change = forecast != null && last_year > 0 ? forecast / last_year - 1 : null;
  return { key, name: table.nameOf(key), lower: key.map((part) => String(part).toLowerCase()), at_risk, forecast, last_year, recent, change };
}

async function loadOutlook() {
  try {
    const outlook = await ask("v1/outlook");
    stand(outlook);
    const count = panel.entities.length;
    all = outlook.series.map((row) => rowOf(row.slice(0, count), row.slice(count)));
  } catch (error) {
    stand();
    problem(`${error.message} The past is shown; the forecast is missing.`);
    all = panel.series.map((key) => rowOf(key, []));
  }
  all.forEach((row, place) => { row.place = place; });
  table.setRows(all);
}

/** Ask now and then whether the store answers, and whether it knows a later period. */
async function refresh() {
  if (document.hidden) return;
  try {
    const outlook = await ask("v1/outlook");
    const later = outlook.cutoff !== standing?.cutoff;
    stand(outlook);
    if (!later) return;
    problem(null);
    await loadOutlook();
    table.refresh();
    if (chosen) await choose(all[chosen.place]);
  } catch (error) {
    if (standing) stand({ ...standing, stale: error.message });
  }
}

function levels() {
  const made = [["", "Series"], [panel.entities[0], `By ${words(panel.entities[0])}`]].map(([by, text]) => {
    const button = make("button", "", text);
    button.type = "button";
    button.setAttribute("aria-pressed", String(view.within ? by !== "" : view.by === by));
    button.addEventListener("click", () => { Object.assign(view, { by, within: "", q: "" }); $("search").value = ""; table.refresh(); });
    return button;
  });
  $("levels").replaceChildren(...made);
  $("levels").hidden = panel.entities.length < 2;
  $("up").hidden = !view.within;
  $("up").textContent = view.within ? `${words(panel.entities[0])} ${view.within} ✕` : "";
  $("up").setAttribute("aria-label", `Leave ${words(panel.entities[0])} ${view.within}`);
}

function open(row) {
  if (!row.group) { choose(row); return; }
  Object.assign(view, { within: String(row.key[0]), q: "" });
  $("search").value = "";
  table.refresh();
  const first = table.shownRows()[0];
  if (first) choose(first);
}

function exportTable() {
  const shown = table.shownRows(), grouped = shown[0]?.group;
  const names = grouped ? panel.entities.slice(0, 1) : panel.entities;
  save("forecasts.csv", [...names, "at_risk", "forecast", "last_year", "change"],
    shown.map((row) => [...row.key, row.at_risk, row.forecast, row.last_year, row.change]));
}

// ---- one series ------------------------------------------------------------------------------

const keyOf = (row) => Object.fromEntries(panel.entities.map((entity, i) => [entity, row.key[i]]));

async function choose(row) {
  [chosen, answer, tried] = [row, null, null];
  view.key = row.key.map(String);
  table.setChosen(row);
  document.title = `${row.name} – forecast`;
  $("title").textContent = row.name;
  writeLink(panel.entities);
  const mine = ++asked;
  whatif.setSeries(keyOf(row));
  try {
    const content = await ask(`v1/outlook/series?${new URLSearchParams(keyOf(row))}`);
    if (mine !== asked) return; // another series was chosen meanwhile
    answer = content;
    stand(content);
    problem(content.steps.length ? null : "The online store does not know this series: it has no forecast.");
  } catch (error) {
    if (mine !== asked) return;
    problem(`${error.message} The past is shown; the forecast is missing.`);
  }
  origins();
  draw();
}

function origins() {
  const made = [["", "today"], ...(answer?.origins ?? []).map((one) => [one.cutoff, day.format(timeOf(one.cutoff) * 1000)]).reverse()];
  $("asof").replaceChildren(...made.map(([value, text]) => { const one = make("option", "", text); one.value = value; return one; }));
  if (!made.some(([value]) => value === view.asof)) view.asof = "";
  $("asof").value = view.asof;
  $("asof").disabled = made.length === 1;
  $("asof").title = made.length === 1 ? "No backtest of this series was published" : "";
}

/** The forecast in view: today's, or the one made at a past cut-off, beside what happened. */
function inView() {
  const past = answer?.origins.find((one) => one.cutoff === view.asof);
  const steps = (past ?? answer)?.steps ?? [];
  const levelsOf = steps.length ? Object.keys(steps[0].quantiles).map(Number).sort((a, b) => a - b) : [];
  const cutoff = past ? timeOf(past.cutoff) : answer ? Math.floor(Date.parse(answer.cutoff) / 86400000) * 86400 : null;
  return { past, quantiles: levelsOf, cutoff, steps: steps.map((step) => ({ ...step, time: timeOf(step.period) })), tried: past ? null : tried };
}

function draw() {
  if (!chosen) return;
  const count = panel.periods.length, from = chosen.place * count;
  const past = {
    frequency: secondsOf(panel.frequency), times: panel.periods.map(timeOf),
    labels: panel.labels.subarray(from, from + count),
    events: Array.from(panel.codes.subarray(from, from + count), (code) => (code ? panel.events[code - 1] : "")),
  };
  const forecast = inView();
  const data = align(past, forecast, panel.season);
  drawSeries(data, forecast.quantiles, view.periods === "all" ? Infinity : Number(view.periods));
  $("tried-key").hidden = !forecast.tried;
  if (forecast.quantiles.length) $("band-name").textContent = `${quantileName(forecast.quantiles[0])} to ${quantileName(forecast.quantiles.at(-1))}`;
  const events = new Map(data.specials);
  tell(forecast, new Map(data.x.map((time, i) => [time, { lastYear: data.lastYear[i], label: data.label[i], event: events.get(time) }])));
}

function tell({ past, steps, quantiles }, at) {
  const pick = (name) => steps.map((step) => at.get(step.time)?.[name] ?? null);
  const sum = (values) => values.reduce((total, value) => total + (value ?? 0), 0);
  const [median, lastYear, label] = [steps.map((step) => step.quantiles["0.5"]), pick("lastYear"), pick("label")];
  const against = past ? label : lastYear;
  const base = sum(median.filter((_, i) => against[i] != null)), other = sum(against);
  const some = against.some((value) => value != null);
  terms($("facts"), !steps.length ? [] : [
    [`forecast, ${steps.length} periods`, whole.format(sum(median))],
    [past ? "what happened" : "last year", some ? whole.format(other) : "–"],
    [past ? "forecast against it" : "change", some && other > 0 ? signed.format(base / other - 1) : "–"],
  ]);
  rows($("numbers").tHead, "th", [["period to", ...quantiles.map(quantileName), past ? "happened" : "last year", "event"]]);
  rows($("numbers").tBodies[0], "td", steps.map((step, i) => [
    day.format(step.time * 1000), ...quantiles.map((quantile) => whole.format(step.quantiles[String(quantile)])),
    told(against[i], whole), at.get(step.time)?.event ?? "",
  ]), ["", ...quantiles.map((quantile) => (quantile === 0.5 ? "median" : "")), "", "event"]);
  $("footer").textContent = answer ? `Bundle ${answer.bundle}, snapshot ${answer.snapshot}. ${whole.format(panel.series.length)} series of ${words(panel.label)}.` : "";
}

function exportSeries() {
  const { steps, quantiles, past } = inView();
  save("series.csv", [...panel.entities, "cutoff", "period", ...quantiles.map(quantileName), "what_if"],
    steps.map((step) => [...chosen.key, past?.cutoff ?? answer.cutoff, step.period, ...quantiles.map((one) => step.quantiles[String(one)]), past ? null : tried?.get(step.time)]));
}

function ranges() {
  $("ranges").replaceChildren(...RANGES.map(([name, periods]) => {
    const button = make("button", "", name);
    button.type = "button";
    button.setAttribute("aria-pressed", String(periods === view.periods));
    button.addEventListener("click", () => { view.periods = periods; writeLink(panel.entities); ranges(); draw(); $("ranges").querySelector('[aria-pressed="true"]').focus(); });
    return button;
  }));
}

// ---- start -----------------------------------------------------------------------------------

async function follow() {
  readLink(panel.entities);
  $("search").value = view.q;
  ranges();
  table.refresh();
  const wanted = view.key && all.find((row) => row.key.every((part, i) => String(part) === view.key[i]));
  const first = wanted ?? table.shownRows().find((row) => !row.group) ?? all[0];
  if (first) await choose(first);
  else problem("There is no series: the labels are empty.");
}

async function start() {
  const scores = ask("v1/scores");
  panel = await askPanel();
  $("unit").textContent = words(panel.label);
  $("search").placeholder = `Find: ${panel.series.length ? panel.series[0].map((part, i) => `${words(panel.entities[i])} ${part}`).join(" ") : ""}`;
  table.setUp(panel.entities, open);
  whatif.setUp((values) => { tried = values; if (values) view.asof = ""; origins(); draw(); });
  scores.then((found) => { showFigures(found); showHorizon(found.by_step); }, (error) => problem(error.message));
  await loadOutlook();
  await follow();
  setInterval(refresh, REFRESH_MS);
  ask("v1/drivers").then(showDrivers, (error) => { $("drivers-note").textContent = error.message; });
}

addEventListener("viewchange", () => { levels(); writeLink(panel.entities); });
addEventListener("hashchange", follow);
$("search").addEventListener("input", () => { view.q = $("search").value; table.refresh(); });
$("up").addEventListener("click", () => { Object.assign(view, { within: "", by: panel.entities[0] }); table.refresh(); $("list").focus(); });
$("asof").addEventListener("change", () => { view.asof = $("asof").value; writeLink(panel.entities); draw(); });
$("export").addEventListener("click", exportTable);
$("export-series").addEventListener("click", exportSeries);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
let resized;
addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(() => { table.draw(); draw(); }, 100); });
start().catch((error) => problem(error.message));
