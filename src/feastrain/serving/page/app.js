// The planner's page: one series at a time, its past, its forecast and how sure that is.
// Everything it says comes from the API; names of entities too. Text is set, never parsed.

const ROW_HEIGHT = 34;
const RANGES = [["1 year", 52], ["2 years", 104], ["all", Infinity]];
const $ = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const percent = new Intl.NumberFormat(undefined, { style: "percent", maximumFractionDigits: 1, signDisplay: "exceptZero" });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeZone: "UTC" });

const state = { all: [], shown: [], entities: [], chosen: null, data: null, periods: RANGES[1][1], asked: 0 };
let chart = null;

// ---- the API ---------------------------------------------------------------------------------

async function ask(path, body) {
  let answer;
  try {
    answer = await fetch(path, body && {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
    });
  } catch {
    throw new Error("The server does not answer. Is it running?");
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(content.error ?? `The server answered ${answer.status}.`);
  return content;
}

function problem(text) {
  $("problem").textContent = text ?? "";
  $("problem").hidden = !text;
}

// ---- the list of series ----------------------------------------------------------------------

const quantileName = (quantile) => `P${whole.format(quantile * 100)}`;
const nameOf = (series) => state.entities.map((entity, i) => `${entity} ${series.key[i]}`).join(" · ");
const keyOf = (series) => Object.fromEntries(state.entities.map((entity, i) => [entity, series.key[i]]));

/** Every word or number asked for is in the series: "12 7", "store 12", "dept 7 store 12". */
function matches(series, text) {
  const words = text.toLowerCase().match(/[^\s,·]+/g) ?? [];
  for (let i = 0; i < words.length; i++) {
    const entity = state.entities.findIndex((name) => name.toLowerCase() === words[i]);
    if (entity >= 0 && i + 1 < words.length) {
      if (!String(series.key[entity]).toLowerCase().startsWith(words[++i])) return false;
    } else if (entity < 0 && !series.key.some((value) => String(value).toLowerCase() === words[i])) {
      return false;
    }
  }
  return true;
}

function filter() {
  const text = $("search").value;
  state.shown = state.all.filter((series) => matches(series, text));
  $("count").textContent = `${whole.format(state.shown.length)} of ${whole.format(state.all.length)} series, largest first`;
  $("spacer").style.height = `${state.shown.length * ROW_HEIGHT}px`;
  $("list").scrollTop = 0;
  drawList();
}

/** Draw only the rows in view, so that thousands of series scroll without lag. */
function drawList() {
  const list = $("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - 5);
  const last = Math.min(state.shown.length, first + Math.ceil(list.clientHeight / ROW_HEIGHT) + 10);
  const rows = state.shown.slice(first, last).map((series, i) => {
    const row = document.createElement("div");
    row.className = "series";
    row.id = `series-${first + i}`;
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", String(series === state.chosen));
    row.style.top = `${(first + i) * ROW_HEIGHT}px`;
    for (const text of [nameOf(series), short.format(series.total)]) {
      row.appendChild(document.createElement("span")).textContent = text;
    }
    row.addEventListener("click", () => choose(series));
    return row;
  });
  $("spacer").replaceChildren(...rows);
  const at = state.shown.indexOf(state.chosen);
  if (at >= first && at < last) $("search").setAttribute("aria-activedescendant", `series-${at}`);
  else $("search").removeAttribute("aria-activedescendant");
}

function move(by) {
  if (!state.shown.length) return;
  const at = state.shown.indexOf(state.chosen);
  const next = at < 0 ? 0 : Math.min(state.shown.length - 1, Math.max(0, at + by));
  const list = $("list");
  if (next * ROW_HEIGHT < list.scrollTop) list.scrollTop = next * ROW_HEIGHT;
  const bottom = (next + 1) * ROW_HEIGHT - list.clientHeight;
  if (bottom > list.scrollTop) list.scrollTop = bottom;
  choose(state.shown[next]);
}

// ---- one series ------------------------------------------------------------------------------

async function choose(series) {
  state.chosen = series;
  history.replaceState(null, "", `#${new URLSearchParams(keyOf(series))}`);
  document.title = `${nameOf(series)} – forecast`;
  $("title").textContent = nameOf(series);
  drawList();
  const asked = ++state.asked;
  const past = ask(`v1/history?${new URLSearchParams(keyOf(series))}`);
  const ahead = ask("v1/forecasts", { series: [keyOf(series)] });
  const [history_, forecast] = await Promise.allSettled([past, ahead]);
  if (asked !== state.asked) return; // another series was chosen meanwhile
  const failed = [history_, forecast].find((answer) => answer.status === "rejected");
  const answer = forecast.value?.series[0];
  problem(failed ? failed.reason.message : answer?.status === "unknown"
    ? "The online store does not know this series: it has no forecast." : null);
  state.data = align(history_.value, forecast.value);
  draw();
  tell(history_.value, forecast.value);
}

const seconds = (period) => Date.parse(period.length === 10 ? `${period}T00:00:00Z` : `${period}Z`) / 1000;

/** Lay history and forecast on one time axis: every period once, holes as null. */
function align(past, forecast) {
  const steps = forecast?.series[0].steps ?? [];
  const quantiles = forecast?.quantiles ?? [];
  const [low, high] = [String(quantiles[0]), String(quantiles.at(-1))];
  const frequency = state.frequency;
  const known = new Map();
  past?.periods.forEach((period, i) => known.set(seconds(period), { label: past.labels[i], event: past.events[i], weight: past.weights[i] }));
  const ahead = new Map(steps.map((step) => [seconds(step.period), step]));
  const times = [...known.keys(), ...ahead.keys()];
  if (!times.length) return null;
  const [start, end] = [Math.min(...times), Math.max(...times)];
  const cutoff = forecast ? Math.floor(Date.parse(forecast.cutoff) / 86400000) * 86400 : null;
  const data = { x: [], label: [], lastYear: [], low: [], median: [], high: [], specials: [] };
  data.names = quantiles.length ? [quantileName(quantiles[0]), quantileName(quantiles.at(-1))] : ["low", "high"];
  for (let time = start; time <= end; time += frequency) {
    const before = known.get(time), step = ahead.get(time);
    const yearAgo = known.get(time - Math.round(365.25 * 86400 / frequency) * frequency);
    data.x.push(time);
    data.label.push(before?.label ?? null);
    data.lastYear.push(yearAgo?.label ?? null);
    // The fan starts at the last label, so that past and forecast join.
    const joint = time === cutoff ? before?.label ?? null : null;
    data.low.push(step?.quantiles[low] ?? joint);
    data.median.push(step?.quantiles["0.5"] ?? joint);
    data.high.push(step?.quantiles[high] ?? joint);
    const event = step?.event || before?.event || (before?.weight > 1 ? "special" : "");
    if (event) data.specials.push([time, event.replaceAll("_", " ")]);
  }
  return data;
}

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function draw() {
  chart?.destroy();
  chart = null;
  $("chart").replaceChildren();
  const data = state.data;
  if (!data) return;
  const from = Math.max(0, data.x.length - state.periods);
  const cut = (values) => values.slice(from);
  const half = state.frequency / 2;
  const holidays = (u) => {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    for (const [time, name] of data.specials) {
      if (time < u.scales.x.min - half || time > u.scales.x.max + half) continue;
      const left = u.valToPos(time - half, "x", true), right = u.valToPos(time + half, "x", true);
      ctx.fillStyle = css("--special");
      ctx.fillRect(left, bbox.top, Math.max(2, right - left), bbox.height);
      ctx.fillStyle = css("--special-ink");
      ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
      const middle = (left + right) / 2;
      if (middle < bbox.left + 6 * devicePixelRatio) continue; // half a name is no name
      ctx.translate(middle, bbox.top + bbox.height - 6 * devicePixelRatio);
      ctx.rotate(-Math.PI / 2);
      ctx.textBaseline = "middle";
      ctx.fillText(name, 0, 0);
      ctx.setTransform(1, 0, 0, 1, 0, 0);
    }
    ctx.restore();
  };
  const axis = { stroke: css("--soft"), grid: { stroke: css("--line"), width: 1 }, ticks: { show: false } };
  const value = (_, v) => (v == null ? "–" : whole.format(v));
  const height = matchMedia("(max-width: 760px)").matches ? 280 : 380;
  chart = new uPlot({
    width: $("chart").clientWidth,
    height,
    tzDate: (time) => uPlot.tzDate(new Date(time * 1000), "UTC"),
    cursor: { points: { size: 6 } },
    legend: { live: true },
    scales: { x: { time: true }, y: { range: (_, low, high) => [Math.min(0, low * 1.05), high * 1.05 || 1] } },
    axes: [axis, { ...axis, size: 56, values: (_, ticks) => ticks.map((tick) => short.format(tick)) }],
    hooks: { drawClear: [holidays] },
    bands: [{ series: [5, 3], fill: css("--band") }],
    series: [
      { label: "period", value: (_, v) => (v == null ? "–" : day.format(v * 1000)) },
      { label: "a year before", stroke: css("--last-year"), dash: [5, 4], width: 1.5, value, points: { show: false } },
      { label: "what happened", stroke: css("--actual"), width: 1.75, value, points: { show: false } },
      { label: data.names[0], stroke: "transparent", value, points: { show: false } },
      { label: "forecast", stroke: css("--forecast"), width: 2.25, value, points: { show: false } },
      { label: data.names[1], stroke: "transparent", value, points: { show: false } },
    ],
  }, [data.x, data.lastYear, data.label, data.low, data.median, data.high].map(cut), $("chart"));
}

function tell(past, forecast) {
  const steps = forecast?.series[0].steps ?? [];
  const quantiles = forecast?.quantiles ?? [];
  if (quantiles.length) $("band-name").textContent = `${quantileName(quantiles[0])} to ${quantileName(quantiles.at(-1))}`;
  const total = steps.reduce((sum, step) => sum + step.quantiles["0.5"], 0);
  const years = new Map(state.data?.x.map((time, i) => [time, state.data.lastYear[i]]));
  const before = steps.map((step) => years.get(seconds(step.period)));
  const comparable = before.length && before.every((label) => label != null);
  const yearAgo = before.reduce((sum, label) => sum + (label ?? 0), 0);
  facts(!steps.length ? [] : [
    [`next ${steps.length} periods`, steps.length ? whole.format(total) : "–"],
    ["the same a year before", comparable ? whole.format(yearAgo) : "–"],
    ["change", comparable && yearAgo > 0 ? percent.format(total / yearAgo - 1) : "–"],
  ]);
  rows($("numbers").tHead, "th", [["period", ...quantiles.map(quantileName), "a year before", "special"]]);
  rows($("numbers").tBodies[0], "td", steps.map((step, i) => [
    day.format(seconds(step.period) * 1000),
    ...quantiles.map((quantile) => whole.format(step.quantiles[String(quantile)])),
    before[i] == null ? "–" : whole.format(before[i]),
    (step.event ?? "").replaceAll("_", " "),
  ]), ["", ...quantiles.map((quantile) => (quantile === 0.5 ? "median" : "")), "", "event"]);
  $("numbers").closest("section").hidden = !steps.length;
  if (!forecast) {
    $("footer").textContent = "The past is shown as it was last loaded; the forecast is missing.";
    return;
  }
  const cutoff = new Date(forecast.cutoff);
  const age = Math.floor((Date.now() - cutoff) / 86400000);
  $("footer").textContent = `Known up to ${day.format(cutoff)} (${whole.format(age)} days ago). ` +
    `Bundle ${forecast.bundle}, snapshot ${forecast.snapshot}. ` +
    `${past ? whole.format(past.labels.length) : "No"} periods of ${state.label.replaceAll("_", " ")} on record.`;
}

function facts(pairs) {
  $("figures").replaceChildren(...pairs.map(([term, value]) => {
    const pair = document.createElement("div");
    pair.appendChild(document.createElement("dt")).textContent = term;
    pair.appendChild(document.createElement("dd")).textContent = value;
    return pair;
  }));
}

function rows(parent, cell, content, classes = []) {
  parent.replaceChildren(...content.map((texts) => {
    const row = document.createElement("tr");
    texts.forEach((text, i) => {
      const made = row.appendChild(document.createElement(cell));
      made.textContent = text;
      if (classes[i]) made.className = classes[i];
    });
    return row;
  }));
}

// ---- start -----------------------------------------------------------------------------------

const UNITS = { h: 3600, d: 86400, w: 604800 };

function fromLink() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  return state.all.find((series) => state.entities.every((entity, i) => wanted.get(entity) === String(series.key[i])));
}

function ranges() {
  $("ranges").replaceChildren(...RANGES.map(([name, periods]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.setAttribute("aria-pressed", String(periods === state.periods));
    button.addEventListener("click", () => { state.periods = periods; ranges(); draw(); });
    return button;
  }));
}

async function start() {
  ranges();
  const list = await ask("v1/series");
  const count = list.entities.length;
  state.entities = list.entities;
  state.label = list.label;
  state.frequency = parseInt(list.frequency, 10) * UNITS[list.frequency.at(-1)];
  state.all = list.series.map((row) => ({ key: row.slice(0, count), total: row[count], mean: row[count + 1] }));
  state.all.sort((a, b) => b.total - a.total);
  $("search").placeholder = state.all.length ? nameOf(state.all[0]).replaceAll(" ·", "") : "";
  filter();
  const first = fromLink() ?? state.all[0];
  if (first) await choose(first);
  else problem("There is no series: the labels are empty.");
}

$("search").addEventListener("input", filter);
$("search").addEventListener("keydown", (event) => {
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 };
  if (event.key in steps) { event.preventDefault(); move(steps[event.key]); }
  if (event.key === "Enter" && state.shown.length) choose(state.shown[0]);
});
$("list").addEventListener("scroll", drawList, { passive: true });
addEventListener("hashchange", () => { const series = fromLink(); if (series) choose(series); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
let resized;
addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(() => { drawList(); draw(); }, 100); });
start().catch((error) => problem(error.message));
