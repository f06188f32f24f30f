// What the reader looks at, kept in the address so that a link reopens it.

const DEFAULTS = { q: "", by: "", within: "", sort: "at_risk", order: "down", asof: "", periods: "104" };
const PREFIX = "is."; // of entities, so that none is taken for a setting

export const view = { ...DEFAULTS, key: null };

export function readLink(entities) {
  const link = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(DEFAULTS)) view[name] = link.get(name) ?? DEFAULTS[name];
  view.key = entities.every((entity) => link.has(PREFIX + entity))
    ? entities.map((entity) => link.get(PREFIX + entity)) : null;
}

export function writeLink(entities) {
  const link = new URLSearchParams();
  view.key?.forEach((value, i) => link.set(PREFIX + entities[i], value));
  for (const [name, usual] of Object.entries(DEFAULTS)) if (view[name] !== usual) link.set(name, view[name]);
  history.replaceState(null, "", `#${link}`);
}
