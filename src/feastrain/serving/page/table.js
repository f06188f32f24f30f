// The table of exceptions: thousands of rows, of which only those in view are drawn.

import { $, compact, make, signed, told, whole, words } from "./format.js";
import { view } from "./view.js";

const ROW_HEIGHT = 36;
export const COLUMNS = [
  ["name", "series", null], ["at_risk", "at risk", compact], ["forecast", "forecast", compact], ["change", "vs last year", signed],
];

let all = [], shown = [], entities = [], chosen = null, opened = () => {};

export function setUp(names, open) {
  [entities, opened] = [names, open];
  const bar = COLUMNS.map(([column, text]) => {
    const button = make("button", "", text);
    button.type = "button";
    button.dataset.sort = column;
    button.addEventListener("click", () => {
      view.order = view.sort === column ? (view.order === "down" ? "up" : "down") : column === "name" ? "up" : "down";
      view.sort = column;
      refresh();
    });
    const cell = make("div", "", button);
    cell.setAttribute("role", "columnheader");
    return cell;
  });
  $("head").replaceChildren(...bar);
  const body = $("list");
  body.addEventListener("scroll", draw, { passive: true });
  body.addEventListener("keydown", keys);
  $("search").addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") { event.preventDefault(); body.focus(); if (!shown.includes(chosen)) move(0); }
    if (event.key === "Enter" && shown.length) opened(shown[0]);
  });
}

export function setRows(rows) { all = rows; }
export const setChosen = (row) => { chosen = row; draw(); };
export const shownRows = () => shown;
export const nameOf = (key) => entities.map((entity, i) => `${words(entity)} ${key[i]}`).join(" · ");

/** Every word or number asked for is in the series: "12 7", "store 12", "dept 7 store 12". */
function matches(row, asked) {
  for (let i = 0; i < asked.length; i++) {
    const entity = entities.findIndex((name) => name.toLowerCase() === asked[i]);
    if (entity >= 0 && i + 1 < asked.length) {
      if (!(row.lower[entity] ?? "").startsWith(asked[++i])) return false;
    } else if (entity < 0 && !row.lower.includes(asked[i])) {
      return false;
    }
  }
  return true;
}

/** Add the rows up by the first entity; a sum of what is not known everywhere is of what is. */
function totals(rows) {
  const groups = new Map();
  for (const row of rows) {
    const group = groups.get(row.key[0]) ?? { key: [row.key[0]], lower: [row.lower[0]], group: true, series: 0, at_risk: 0, forecast: 0, last_year: 0, recent: 0, base: 0 };
    group.series += 1;
    for (const column of ["at_risk", "forecast", "last_year", "recent"]) group[column] += row[column] ?? 0;
    if (row.last_year != null) group.base += row.forecast ?? 0; // like with like
    groups.set(row.key[0], group);
  }
  return [...groups.values()].map((group) => ({
    ...group, name: `${words(entities[0])} ${group.key[0]}`, change: group.last_year > 0 ? group.base / group.last_year - 1 : null,
  }));
}

export function refresh() {
  const asked = view.q.toLowerCase().match(/[^\s,·]+/g) ?? [];
  let rows = view.within ? all.filter((row) => String(row.key[0]) === view.within) : all;
  if (view.by && !view.within) rows = totals(rows);
  shown = rows.filter((row) => matches(row, asked));
  const sign = view.order === "down" ? -1 : 1;
  const byName = (a, b) => {
    for (let i = 0; i < a.key.length; i++) {
      if (a.key[i] !== b.key[i]) return a.key[i] < b.key[i] ? -1 : 1;
    }
    return 0;
  };
  const column = view.sort;
  shown.sort((a, b) => {
    if (column === "name") return sign * byName(a, b);
    const [x, y] = [a[column], b[column]];
    if (x == null || y == null) return (x == null) - (y == null) || byName(a, b); // unknown last
    return sign * (x - y) || byName(a, b);
  });
  for (const button of $("head").querySelectorAll("button")) {
    const sorted = button.dataset.sort === column ? (view.order === "down" ? "descending" : "ascending") : "none";
    button.parentElement.setAttribute("aria-sort", sorted);
    if (button.dataset.sort === "name") button.textContent = view.by && !view.within ? words(entities[0]) : "series";
  }
  const what = view.by && !view.within ? words(entities[0]) + " totals" : "series";
  const of = view.by && !view.within ? shown.length : all.length;
  $("count").textContent = `${whole.format(shown.length)} of ${whole.format(of)} ${what}`;
  $("grid").setAttribute("aria-rowcount", String(shown.length + 1));
  $("spacer").style.height = `${shown.length * ROW_HEIGHT}px`;
  $("list").scrollTop = 0;
  sums();
  draw();
  dispatchEvent(new Event("viewchange"));
}

function sums() {
  const sum = (column) => shown.reduce((total, row) => total + (row[column] ?? 0), 0);
  const cells = ["all shown", compact.format(sum("at_risk")), compact.format(sum("forecast")), ""];
  const [base, before] = shown.reduce(([f, l], row) =>
    (row.last_year == null ? [f, l] : [f + (row.base ?? row.forecast ?? 0), l + row.last_year]), [0, 0]);
  if (before > 0) cells[3] = signed.format(base / before - 1);
  $("sums").replaceChildren(...cells.map((text) => { const cell = make("div", "", text); cell.setAttribute("role", "gridcell"); return cell; }));
}

export function draw() {
  const list = $("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - 5);
  const last = Math.min(shown.length, first + Math.ceil(list.clientHeight / ROW_HEIGHT) + 10);
  $("spacer").replaceChildren(...shown.slice(first, last).map((row, i) => {
    const cells = COLUMNS.map(([column, , format]) => {
      const cell = make("div", column === "change" && row.change < -0.0005 ? "down" : "", format ? told(row[column], format) : row.name);
      cell.setAttribute("role", "gridcell");
      return cell;
    });
    const made = make("div", "row", ...cells);
    made.id = `row-${first + i}`;
    made.setAttribute("role", "row");
    made.setAttribute("aria-rowindex", String(first + i + 2));
    made.setAttribute("aria-selected", String(row === chosen));
    made.style.top = `${(first + i) * ROW_HEIGHT}px`;
    made.addEventListener("click", () => opened(row));
    return made;
  }));
  const at = shown.indexOf(chosen);
  if (at >= first && at < last) list.setAttribute("aria-activedescendant", `row-${at}`);
  else list.removeAttribute("aria-activedescendant");
}

function keys(event) {
  const page = Math.max(1, Math.floor($("list").clientHeight / ROW_HEIGHT) - 1);
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
  if (event.key in steps) { event.preventDefault(); move(steps[event.key]); }
  if (event.key === "Enter" && chosen) { event.preventDefault(); opened(chosen); }
}

function move(by) {
  if (!shown.length) return;
  const at = shown.indexOf(chosen);
  const next = Math.min(shown.length - 1, Math.max(0, (at < 0 ? 0 : at) + (at < 0 ? 0 : by)));
  const list = $("list");
  if (next * ROW_HEIGHT < list.scrollTop) list.scrollTop = next * ROW_HEIGHT;
  const bottom = (next + 1) * ROW_HEIGHT - list.clientHeight;
  if (bottom > list.scrollTop) list.scrollTop = bottom;
  if (shown[next].group) setChosen(shown[next]); // Enter goes into it
  else opened(shown[next]);
}
