// One series as columns on an even grid of periods: what the chart and the table show.

import { seconds } from "./format.js";

const YEAR = 364 * 86400; // the same weekday a year before

export function makeView(history, answer, step) {
  const past = history ? history.periods.map(seconds) : [];
  const steps = answer?.series[0].steps ?? [];
  const ahead = steps.map((one) => seconds(one.period));
  const xs = grid([...past, ...ahead], step);
  const at = new Map(xs.map((x, index) => [x, index]));
  const actual = xs.map(() => null);
  const events = new Map();
  past.forEach((x, index) => {
    actual[at.get(x)] = history.labels[index];
    note(events, at.get(x), history.events[index], history.weights[index]);
  });
  const lag = YEAR % step === 0 ? YEAR / step : NaN;
  const lastYear = xs.map((_, index) => actual[index - lag] ?? null);
  const quantiles = (answer?.quantiles ?? []).map(String);
  const fan = Object.fromEntries(quantiles.map((q) => [q, xs.map(() => null)]));
  steps.forEach((one, index) => {
    const place = at.get(ahead[index]);
    for (const q of quantiles) fan[q][place] = one.quantiles[q];
    note(events, place, one.event, 1);
  });
  const rows = steps.map((one, index) => {
    const place = at.get(ahead[index]);
    return { x: ahead[index], place, event: events.get(place) ?? "", quantiles: one.quantiles,
      lastYear: lastYear[place] };
  });
  const last = past.length ? at.get(past.at(-1)) : -1;
  return { xs, actual, lastYear, quantiles, fan, events, rows, last, step };
}

// The fan as drawn: it opens from the last observed point where that is the period before it.
export function drawnFan(view) {
  const first = view.rows[0]?.place ?? -1;
  const joined = first > 0 && view.last === first - 1;
  return view.quantiles.map((q) => {
    const drawn = view.fan[q].slice();
    if (joined) drawn[view.last] = view.actual[view.last];
    return drawn;
  });
}

function grid(periods, step) {
  if (!periods.length) return [];
  const first = periods[0];
  const count = Math.round((periods.at(-1) - first) / step) + 1;
  const even = Array.from({ length: count }, (_, index) => first + index * step);
  const known = new Set(even);
  return periods.every((x) => known.has(x)) ? even : [...new Set(periods)].sort((a, b) => a - b);
}

function note(events, place, event, weight) {
  const name = event || (weight > 1 ? `weight ${weight}` : "");
  if (name) events.set(place, name);
}
