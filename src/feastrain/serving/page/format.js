// Numbers, dates and names as people write them.

const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat(undefined, { maximumFractionDigits: 2 });
const short = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const change = new Intl.NumberFormat(undefined, {
  style: "percent", maximumFractionDigits: 1, signDisplay: "exceptZero",
});
const dated = { timeZone: "UTC", day: "numeric", month: "short", year: "numeric" };
const day = new Intl.DateTimeFormat(undefined, dated);
const hour = new Intl.DateTimeFormat(undefined, { ...dated, hour: "2-digit", minute: "2-digit" });
const ago = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });

export const NONE = "–";
const UNITS = { h: ["hour", 3600], d: ["day", 86400], w: ["week", 604800] };

export function number(value) {
  if (value === null || value === undefined) return NONE;
  return (Math.abs(value) >= 100 ? whole : fine).format(value);
}

export const compact = (value) => (value === null ? NONE : short.format(value));

export const percent = (value) => (Number.isFinite(value) ? change.format(value) : NONE);

// Periods are `2012-10-26`, or `2012-10-26T12:00:00` where shorter than a day; always UTC.
export function seconds(period) {
  return Date.parse(period.includes("T") ? `${period}Z` : `${period}T00:00:00Z`) / 1000;
}

export const date = (at) => (at % 86400 === 0 ? day : hour).format(at * 1000);

// `1w` is {name: "week", seconds: 604800}; `2w` is {name: "period", ...}.
export function frequency(text) {
  const [name, size] = UNITS[text.at(-1)];
  const count = Number(text.slice(0, -1));
  return { name: count === 1 ? name : "period", seconds: count * size };
}

export function age(instant, now) {
  const passed = (now - Date.parse(instant)) / 1000;
  for (const [unit, size] of [["year", 31557600], ["month", 2629800], ["day", 86400], ["hour", 3600]]) {
    if (passed >= size) return ago.format(-Math.floor(passed / size), unit);
  }
  return ago.format(-Math.max(0, Math.floor(passed / 60)), "minute");
}

export const words = (name) => name.replaceAll("_", " ");

export const quantileName = (quantile) => `P${Number((Number(quantile) * 100).toFixed(4))}`;

export const keyName = (key) =>
  Object.entries(key).map(([name, value]) => `${words(name)} ${value}`).join(" · ");
