// The chart of one series: its past, last year's line, and the fan of a forecast.

import { $, day, quantileName, short, told, whole, words } from "./format.js";

const UPLOT = window.uPlot;
let chart = null;

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Lay labels and forecast on one time axis. `steps` carry quantiles, `cutoff` is where they start. */
export function align(past, forecast, season) {
  const { times, labels, events, frequency } = past;
  const place = new Map(times.map((time, i) => [time, i]));
  const ahead = new Map(forecast.steps.map((step) => [step.time, step]));
  const start = times[0] ?? forecast.steps[0]?.time;
  const end = Math.max(times.at(-1) ?? -Infinity, forecast.steps.at(-1)?.time ?? -Infinity);
  const data = { x: [], lastYear: [], label: [], low: [], median: [], high: [], tried: [], specials: [], cutoff: forecast.cutoff, frequency };
  const [low, high] = [String(forecast.quantiles[0]), String(forecast.quantiles.at(-1))];
  for (let time = start; time <= end; time += frequency) {
    const at = place.get(time), step = ahead.get(time), yearAgo = season > 1 ? place.get(time - season * frequency) : undefined;
    const label = at === undefined || Number.isNaN(labels[at]) ? null : labels[at];
    const joint = time === forecast.cutoff ? label : null; // the fan starts at the last label
    data.x.push(time);
    data.label.push(label);
    data.lastYear.push(yearAgo === undefined || Number.isNaN(labels[yearAgo]) ? null : labels[yearAgo]);
    data.low.push(step?.quantiles[low] ?? joint);
    data.median.push(step?.quantiles["0.5"] ?? joint);
    data.high.push(step?.quantiles[high] ?? joint);
    data.tried.push(forecast.tried?.get(time) ?? null);
    const event = step?.event || (at === undefined ? "" : events[at]);
    if (event) data.specials.push([time, words(event)]);
  }
  return data;
}

export function drawSeries(data, quantiles, periods) {
  chart?.destroy();
  chart = null;
  $("chart").replaceChildren();
  if (!data?.x.length) return;
  const from = Math.max(0, data.x.length - periods);
  const columns = [data.x, data.lastYear, data.label, data.low, data.median, data.high];
  if (data.tried.some((tried) => tried != null)) columns.push(data.tried);
  const axis = { stroke: css("--soft"), grid: { stroke: css("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  const value = (_, v) => told(v, whole);
  const names = [quantiles[0] ?? 0.1, quantiles.at(-1) ?? 0.9].map(quantileName);
  const bare = { value, points: { show: false } };
  chart = new UPLOT({
    width: $("chart").clientWidth,
    height: matchMedia("(max-width: 900px)").matches ? 270 : 360,
    tzDate: (time) => UPLOT.tzDate(new Date(time * 1000), "UTC"),
    cursor: { points: { size: 6 } },
    scales: { x: { time: true }, y: { range: (_, low, high) => [Math.min(0, low * 1.05), high * 1.08 || 1] } },
    axes: [axis, { ...axis, size: 52, values: (_, ticks) => ticks.map((tick) => short.format(tick)) }],
    hooks: { drawClear: [(u) => specials(u, data)] },
    bands: [{ series: [5, 3], fill: css("--band") }],
    series: [
      { label: "period", value: (_, v) => (v == null ? "–" : day.format(v * 1000)) },
      { label: "last year", stroke: css("--last-year"), dash: [5, 4], width: 1.5, ...bare },
      { label: "happened", stroke: css("--actual"), width: 1.75, ...bare },
      { label: names[0], stroke: "transparent", ...bare },
      { label: "forecast", stroke: css("--forecast"), width: 2.25, ...bare },
      { label: names[1], stroke: "transparent", ...bare },
      { label: "what-if", stroke: css("--tried"), width: 2.25, dash: [7, 3], ...bare },
    ].slice(0, columns.length),
  }, columns.map((values) => values.slice(from)), $("chart"));
}

/** Shade special periods, name them, and mark the cut-off of the forecast. */
function specials(u, data) {
  const { ctx, bbox } = u, half = data.frequency / 2, ratio = devicePixelRatio;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.font = `${11 * ratio}px system-ui, sans-serif`;
  ctx.textBaseline = "middle";
  let named = -Infinity; // where the last name stands: the next one must not run into it
  for (const [time, name] of data.specials) {
    if (time < u.scales.x.min - half || time > u.scales.x.max + half) continue;
    const left = u.valToPos(time - half, "x", true), right = u.valToPos(time + half, "x", true);
    ctx.fillStyle = css("--special");
    ctx.fillRect(left, bbox.top, Math.max(2, right - left), bbox.height);
    const middle = (left + right) / 2;
    if (middle < bbox.left + 6 * ratio || middle < named + 13 * ratio) continue; // half a name is no name
    named = middle;
    ctx.save();
    ctx.fillStyle = css("--special-ink");
    ctx.translate(middle, bbox.top + bbox.height - 6 * ratio);
    ctx.rotate(-Math.PI / 2);
    ctx.fillText(name, 0, 0);
    ctx.restore();
  }
  if (data.cutoff != null) {
    const at = Math.round(u.valToPos(data.cutoff, "x", true));
    ctx.strokeStyle = css("--soft");
    ctx.lineWidth = ratio;
    ctx.setLineDash([2 * ratio, 3 * ratio]);
    ctx.beginPath();
    ctx.moveTo(at, bbox.top);
    ctx.lineTo(at, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}
