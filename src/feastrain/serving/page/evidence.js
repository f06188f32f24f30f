// What a backtest found and what drives the forecast: figures, error by horizon, importances.

import { $, make, percent, signed, terms, told, whole, words } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";

export function showFigures(scores) {
  const figures = scores.figures;
  $("not-backtested").hidden = Boolean(figures);
  if (!figures) {
    $("not-backtested").textContent = `Not backtested yet: run feastrain backtest ${scores.recipe}`;
    return;
  }
  terms($("figures"), [
    ["error (WAPE)", told(figures.wape, percent), "of all that happened"],
    ["bias", told(figures.bias, signed), figures.bias > 0 ? "forecasts too much" : "forecasts too little"],
    [`within ${whole.format(100 * (figures.nominal ?? 0))}% band`, told(figures.coverage, percent), "of what happened"],
    ["better than last year", told(figures.improvement, signed), "weighted error against seasonal naive"],
  ]);
  $("figures-note").textContent =
    `Backtest of ${whole.format(figures.labels)} forecasts made at ${whole.format(figures.cutoffs)} past date${figures.cutoffs === 1 ? "" : "s"}.`;
}

function shape(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text != null) element.textContent = text;
  return element;
}

let drawn = [];
addEventListener("resize", () => showHorizon(drawn));

/** Two lines over the steps ahead: the model's error, and that of last year's label. */
export function showHorizon(steps) {
  drawn = steps;
  const known = steps.filter((step) => step.wape != null);
  $("horizon").hidden = !known.length;
  if (!known.length) return;
  const [width, height, left, bottom] = [$("horizon-chart").clientWidth || 480, 190, 40, 28];
  const top = Math.max(...known.flatMap((step) => [step.wape, step.naive ?? 0])) * 1.1 || 1;
  const last = known.at(-1).step;
  const x = (step) => left + ((step - 1) / Math.max(1, last - 1)) * (width - left - 12);
  const y = (value) => 10 + (1 - value / top) * (height - bottom - 10);
  const drawing = shape("svg", { width, height, role: "img" });
  const ends = `${percent.format(known[0].wape)} one period ahead, ${percent.format(known.at(-1).wape)} ${last} ahead`;
  drawing.setAttribute("aria-label", `Error by horizon: ${ends}`);
  for (let i = 0; i <= 3; i++) {
    const value = (top * i) / 3;
    drawing.append(shape("line", { x1: left, x2: width - 8, y1: y(value), y2: y(value), class: "rule" }));
    drawing.append(shape("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, `${whole.format(value * 100)}%`));
  }
  for (const step of new Set([1, Math.round((1 + last) / 2), last])) {
    drawing.append(shape("text", { x: x(step), y: height - 8, "text-anchor": "middle" }, String(step)));
  }
  for (const [name, line] of [["naive", "naive"], ["wape", "model"]]) {
    const points = known.filter((step) => step[name] != null).map((step) => `${x(step.step)},${y(step[name])}`);
    drawing.append(shape("polyline", { points: points.join(" "), class: line }));
  }
  $("horizon-chart").replaceChildren(drawing);
}

const MOST_BARS = 10;

export function showDrivers(drivers) {
  const top = drivers.features.slice(0, MOST_BARS);
  const most = top[0]?.moved || 1;
  $("drivers-list").replaceChildren(...top.map((one) => {
    const bar = make("span", "bar");
    bar.style.width = `${(100 * one.moved) / most}%`;
    return make("li", "", make("span", "what", words(one.feature)), make("span", "track", bar), make("span", "much", percent.format(one.moved)));
  }));
  const left = drivers.left_out.length ? ` ${drivers.left_out.length} features were not tried for want of time.` : "";
  $("drivers-note").textContent = `How far the forecast moves, on average, when the values of one feature are swapped among ` +
    `${whole.format(drivers.series)} series (or target periods). It tells what the model uses, not what causes what happens.${left}`;
}
