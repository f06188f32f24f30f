// Numbers and dates as the reader writes them, and text put on the page. Text is set, never parsed.

export const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
export const short = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
export const compact = new Intl.NumberFormat(undefined, { notation: "compact", minimumFractionDigits: 1, maximumFractionDigits: 1 });
export const percent = new Intl.NumberFormat(undefined, { style: "percent", maximumFractionDigits: 1 });
export const signed = new Intl.NumberFormat(undefined, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1, signDisplay: "exceptZero" });
export const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeZone: "UTC" });

export const $ = (id) => document.getElementById(id);
export const words = (name) => name.replaceAll("_", " ");
export const quantileName = (quantile) => `P${whole.format(quantile * 100)}`;
export const told = (value, format) => (value == null || Number.isNaN(value) ? "–" : format.format(value));

/** Make an element with a class and text or children. */
export function make(tag, name, ...content) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...content.filter((part) => part != null));
  return element;
}

/** Fill a list of terms with their values: [term, value, note]. */
export function terms(list, entries) {
  list.replaceChildren(...entries.map(([term, value, note]) =>
    make("div", "", make("dt", "", term), make("dd", "", value), note ? make("dd", "note", note) : null)));
}

/** Fill the head or body of a table; `classes` are those of its columns. */
export function rows(parent, cell, content, classes = []) {
  parent.replaceChildren(...content.map((texts) =>
    make("tr", "", ...texts.map((text, i) => {
      const made = make(cell, classes[i] ?? "", text);
      if (cell === "th") made.scope = "col";
      return made;
    }))));
}
