// The list of all series: searched as one types, and only the rows in sight are in the document.

import { compact, keyName, words } from "./format.js";

const ROW = 44;
const SPARE = 6;

export class Picker {
  constructor(parts, list, onPick) {
    Object.assign(this, parts); // box, input, options, scroll, list, count, order
    this.onPick = onPick;
    this.names = list.entities;
    this.all = list.series.map((row) => {
      const values = row.slice(0, this.names.length);
      const key = Object.fromEntries(this.names.map((name, index) => [name, values[index]]));
      const [total, mean] = row.slice(this.names.length);
      return { key, values: values.map((value) => String(value).toLowerCase()), total, mean };
    });
    this.largest = Math.max(1e-9, ...this.all.map((one) => one.total));
    this.input.placeholder = `Search ${this.names.map(words).join(", ")}`;
    this.listen();
    this.filter();
  }

  listen() {
    this.input.addEventListener("input", () => { this.open(true); this.filter(); });
    this.input.addEventListener("focus", () => this.open(true));
    this.input.addEventListener("keydown", (event) => this.press(event));
    this.order.addEventListener("change", () => this.filter());
    this.scroll.addEventListener("scroll", () => this.render(), { passive: true });
    new ResizeObserver(() => this.render()).observe(this.scroll);
    this.list.addEventListener("mousedown", (event) => event.preventDefault());
    this.list.addEventListener("click", (event) => {
      const row = event.target.closest("[data-index]");
      if (row) this.pick(Number(row.dataset.index));
    });
    document.addEventListener("pointerdown", (event) => {
      if (!this.box.contains(event.target)) this.open(false);
    });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.target.matches("input, select, textarea")) return;
      event.preventDefault();
      this.input.focus();
      this.input.select();
    });
  }

  // Narrow screens show the list only while one searches.
  open(wanted) {
    this.box.classList.toggle("open", wanted);
    if (wanted) this.render();
  }

  find(key) {
    return this.all.find((one) => this.names.every((name) => String(one.key[name]) === String(key[name])));
  }

  get largestSeries() {
    return this.all.reduce((best, one) => (one.total > best.total ? one : best), this.all[0]);
  }

  select(series) {
    this.selected = series;
    this.active = this.shown.indexOf(series);
    this.reveal();
    this.render();
  }

  neighbour(by) {
    const from = this.shown.indexOf(this.selected);
    return this.shown[from < 0 ? 0 : from + by];
  }

  filter() {
    const asked = this.input.value.toLowerCase().split(/[\s,/·]+/).filter(Boolean);
    const scored = this.all.map((one) => [this.score(one, asked), one]).filter(([score]) => score > 0);
    if (this.order.value === "total") scored.sort(([a, x], [b, y]) => b - a || y.total - x.total);
    else scored.sort(([a], [b]) => b - a);
    this.shown = scored.map(([, one]) => one);
    this.active = asked.length ? 0 : this.shown.indexOf(this.selected);
    const count = this.shown.length.toLocaleString();
    this.count.textContent = asked.length ? `${count} found` : `${count} series`;
    this.scroll.scrollTop = 0;
    this.reveal();
    this.render();
  }

  // Numbers are read in the order of the entities (`3 12`), or after a name (`dept 12`).
  score(one, asked) {
    let [score, place, named] = [1, 0, -1];
    for (const token of asked) {
      const name = this.names.findIndex((each) => each.toLowerCase() === token);
      if (name >= 0) {
        named = name;
        continue;
      }
      const matched = named >= 0 || asked.length > 1
        ? grade(one.values[named >= 0 ? named : place], token)
        : Math.max(...one.values.map((value) => grade(value, token)));
      if (!matched) return 0;
      score += matched;
      place = (named >= 0 ? named : place) + 1;
      named = -1;
    }
    return score;
  }

  press(event) {
    const page = Math.max(1, Math.floor(this.scroll.clientHeight / ROW) - 1);
    const move = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page }[event.key];
    if (move) {
      event.preventDefault();
      this.open(true);
      this.active = Math.min(this.shown.length - 1, Math.max(0, this.active + move));
      this.reveal();
      this.render();
    } else if (event.key === "Enter" && this.shown.length) {
      this.pick(Math.max(0, this.active));
    } else if (event.key === "Escape") {
      this.input.value = "";
      this.filter();
      this.open(false);
    }
  }

  pick(index) {
    this.open(false);
    this.onPick(this.shown[index]);
  }

  reveal() {
    const top = this.active * ROW;
    const { scrollTop, clientHeight } = this.scroll;
    if (this.active < 0 || (top >= scrollTop && top + ROW <= scrollTop + clientHeight)) return;
    this.scroll.scrollTop = top < scrollTop ? top : top + ROW - clientHeight;
  }

  render() {
    const first = Math.max(0, Math.floor(this.scroll.scrollTop / ROW) - SPARE);
    const last = Math.ceil((this.scroll.scrollTop + this.scroll.clientHeight) / ROW) + SPARE;
    this.list.style.height = `${this.shown.length * ROW}px`;
    const rows = this.shown.slice(first, last).map((one, index) => this.row(one, first + index));
    this.list.replaceChildren(...rows);
    const active = rows.find((row) => row.dataset.index === String(this.active));
    if (active) this.input.setAttribute("aria-activedescendant", active.id);
    else this.input.removeAttribute("aria-activedescendant");
    this.input.setAttribute("aria-expanded", String(this.scroll.clientHeight > 0));
  }

  row(one, index) {
    const row = document.createElement("li");
    row.id = `series-${index}`;
    row.role = "option";
    row.dataset.index = index;
    row.ariaSelected = String(one === this.selected);
    row.ariaSetSize = String(this.shown.length);
    row.ariaPosInSet = String(index + 1);
    row.classList.toggle("active", index === this.active);
    row.style.transform = `translateY(${index * ROW}px)`;
    const [name, total, share] = ["span", "b", "i"].map((tag) => document.createElement(tag));
    name.textContent = keyName(one.key);
    total.textContent = compact(one.total);
    share.style.transform = `scaleX(${Math.max(0, one.total / this.largest)})`;
    row.append(name, total, share);
    return row;
  }
}

function grade(value, token) {
  if (value === undefined) return 0;
  if (value === token) return 8;
  return value.startsWith(token) ? 2 : 0;
}
