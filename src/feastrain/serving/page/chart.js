// The chart: history, last year, the fan of quantiles, and the weeks that have a name.

import { compact, date, number, quantileName } from "./format.js";
import { drawnFan } from "./view.js";

const NARROW = 560;
const EVENT_ROWS = 3;
const EVENT_ROW_HEIGHT = 15;
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';

export class Chart {
  constructor(root, onRead) {
    this.root = root;
    this.onRead = onRead;
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.hidden = true;
    new ResizeObserver(() => this.resize()).observe(root);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    root.addEventListener("keydown", (event) => this.walk(event));
    root.addEventListener("blur", () => { this.tip.hidden = true; });
  }

  show(view, range) {
    this.view = view;
    this.range = range;
    this.draw();
  }

  draw() {
    this.plot?.destroy();
    this.plot = undefined;
    this.root.replaceChildren();
    if (!this.view?.xs.length) return;
    const ink = inkOf(this.root);
    const fan = drawnFan(this.view);
    const data = [this.view.xs, this.view.lastYear, ...fan, this.view.actual];
    this.plot = new uPlot(this.options(ink, fan.length), data, this.root);
    this.plot.over.append(this.tip);
    this.tip.hidden = true;
  }

  options(ink, quantiles) {
    const half = Math.floor(quantiles / 2);
    const middle = this.view.quantiles.indexOf("0.5");
    const series = [{}, { stroke: ink.lastYear, width: 1.5, dash: [4, 4], points: { show: false } }];
    for (let index = 0; index < quantiles; index += 1) {
      const line = index === middle ? { stroke: ink.median, width: 2.5 } : { width: 0 };
      series.push({ ...line, points: { show: false } });
    }
    series.push({ stroke: ink.actual, width: 1.75, points: { show: true, size: 4, fill: ink.actual,
      filter: (_, __, ___, ____) => this.alone() } });
    const bands = Array.from({ length: half }, (_, index) => (
      { series: [2 + quantiles - 1 - index, 2 + index], fill: ink.fan }));
    const narrow = this.root.clientWidth < NARROW;
    const axis = { stroke: ink.faint, font: `12px ${FONT}`, ticks: { show: false },
      border: { show: false } };
    return {
      ...this.size(), series, bands, ms: 1e-3, tzDate: (at) => uPlot.tzDate(new Date(at * 1e3), "UTC"),
      padding: [this.view.events.size ? EVENT_ROWS * EVENT_ROW_HEIGHT + 6 : 12, narrow ? 10 : 16, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: true, y: false, setScale: true }, points: { show: false } },
      scales: { x: { time: true, range: (_, low, high) => this.window(low, high) },
        y: { range: (_, low, high) => withZero(low, high) } },
      axes: [
        { ...axis, grid: { show: false }, space: narrow ? 58 : 76, gap: 8, size: 40 },
        { ...axis, grid: { stroke: ink.grid, width: 1 }, size: narrow ? 44 : 56, gap: 8,
          values: (_, ticks) => ticks.map(compact) },
      ],
      hooks: { draw: [(plot) => this.annotate(plot, ink)], setCursor: [(plot) => this.read(plot)] },
    };
  }

  size() {
    const width = this.root.clientWidth;
    return { width, height: Math.round(Math.min(430, Math.max(290, width * 0.46))) };
  }

  resize() {
    if (this.plot && this.root.clientWidth !== this.plot.width) this.plot.setSize(this.size());
  }

  // What the range asks for, until the reader drags across a part to see it closer.
  window(low, high) {
    const { xs, step } = this.view;
    const whole = low === xs[0] && high === xs.at(-1);
    if (!whole) return [low, high];
    const last = xs.at(-1);
    const from = this.range === Infinity ? xs[0] : Math.max(xs[0], last - this.range);
    return [from - step / 2, last + step / 2];
  }

  // Observed periods between two gaps: a line would not show them.
  alone() {
    const { actual } = this.view;
    const has = (index) => (actual[index] ?? null) !== null;
    return actual.flatMap((_, index) => (
      has(index) && !has(index - 1) && !has(index + 1) ? [index] : []));
  }

  annotate(plot, ink) {
    const { ctx, bbox } = plot;
    const ratio = uPlot.pxRatio;
    ctx.save();
    this.markCutoff(plot, ctx, bbox, ratio, ink);
    ctx.font = `${11 * ratio}px ${FONT}`;
    ctx.textBaseline = "middle";
    const ends = Array(EVENT_ROWS).fill(-Infinity);
    for (const [place, name] of [...this.view.events].sort(([a], [b]) => a - b)) {
      const x = plot.valToPos(this.view.xs[place], "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      this.markEvent(ctx, bbox, ratio, ink, { x, name, ends, y: this.height(plot, place) });
    }
    ctx.restore();
  }

  markCutoff(plot, ctx, bbox, ratio, ink) {
    const { rows, xs, step } = this.view;
    if (!rows.length) return;
    const x = plot.valToPos(xs[rows[0].place] - step / 2, "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width) return;
    ctx.fillStyle = ink.ahead;
    ctx.fillRect(x, bbox.top, bbox.left + bbox.width - x, bbox.height);
  }

  markEvent(ctx, bbox, ratio, ink, { x, name, ends, y }) {
    const width = ctx.measureText(name).width;
    const right = bbox.left + bbox.width;
    const left = Math.max(bbox.left, Math.min(x - width / 2, right - width));
    const row = ends.findIndex((end) => left > end + 8 * ratio);
    const bottom = bbox.top - 5 * ratio;
    const middle = bottom - (Math.max(row, 0) + 0.5) * EVENT_ROW_HEIGHT * ratio;
    ctx.strokeStyle = ink.event;
    ctx.lineWidth = ratio;
    ctx.globalAlpha = 0.45;
    ctx.setLineDash([2 * ratio, 3 * ratio]);
    ctx.beginPath();
    ctx.moveTo(x, row < 0 ? bbox.top : middle + 7 * ratio);
    ctx.lineTo(x, y ?? bbox.top + bbox.height);
    ctx.stroke();
    ctx.globalAlpha = 1;
    ctx.fillStyle = ink.event;
    if (y !== null) {
      ctx.beginPath();
      ctx.arc(x, y, 3.25 * ratio, 0, 2 * Math.PI);
      ctx.fill();
    }
    if (row < 0) return; // no room: its name is in the reading
    ends[row] = left + width;
    ctx.fillText(name, left, middle);
  }

  height(plot, place) {
    const value = this.view.actual[place] ?? this.view.fan["0.5"]?.[place] ?? null;
    return value === null ? null : plot.valToPos(value, "y", true);
  }

  walk(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!this.plot || !move) return;
    event.preventDefault();
    const { xs } = this.view;
    const from = this.plot.cursor.idx ?? this.view.last;
    const place = Math.min(xs.length - 1, Math.max(0, from + move));
    const { min, max } = this.plot.scales.x;
    if (xs[place] < min || xs[place] > max) return;
    this.plot.setCursor({ left: this.plot.valToPos(xs[place], "x"), top: 20 });
    this.onRead(this.lines(place).map((line) => line.join(" ")).join(", "));
  }

  read(plot) {
    const { idx, left } = plot.cursor;
    if (idx === null || idx === undefined || left < 0) {
      this.tip.hidden = true;
      return;
    }
    const [[heading], ...rest] = this.lines(idx);
    const title = document.createElement("strong");
    title.textContent = heading;
    const rows = rest.map(([name, value]) => {
      const row = document.createElement("span");
      const [term, number_] = [document.createElement("i"), document.createElement("b")];
      term.textContent = name;
      number_.textContent = value;
      row.append(term, number_);
      return row;
    });
    this.tip.replaceChildren(title, ...rows);
    this.tip.hidden = false;
    const x = plot.valToPos(this.view.xs[idx], "x");
    const room = plot.over.clientWidth - x > this.tip.offsetWidth + 20;
    this.tip.style.left = `${room ? x + 12 : Math.max(0, x - this.tip.offsetWidth - 12)}px`;
  }

  lines(place) {
    const { xs, actual, lastYear, fan, quantiles, events } = this.view;
    const lines = [[date(xs[place])]];
    if (events.has(place)) lines[0][0] += ` · ${events.get(place)}`;
    if (actual[place] !== null) lines.push(["actual", number(actual[place])]);
    for (const q of [...quantiles].reverse()) {
      if (fan[q][place] !== null) lines.push([quantileName(q), number(fan[q][place])]);
    }
    if (lastYear[place] !== null) lines.push(["last year", number(lastYear[place])]);
    if (lines.length === 1) lines.push(["not observed", ""]);
    return lines;
  }
}

// From nought where that wastes little of the height; else close around the data.
function withZero(low, high) {
  if (low === null || low === undefined) return [0, 1];
  if (low >= 0 && low < 0.7 * high) return [0, high * 1.06 || 1];
  const margin = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1;
  return [low - margin, high + margin];
}

function inkOf(element) {
  const style = getComputedStyle(element);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  return { actual: colour("ink"), median: colour("accent"), fan: colour("fan"),
    lastYear: colour("last-year"), event: colour("event"), grid: colour("grid"),
    faint: colour("faint"), ahead: colour("ahead") };
}
