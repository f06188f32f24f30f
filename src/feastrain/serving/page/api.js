// What the server is asked, and the history of all series unpacked.

export async function ask(path, body) {
  const answer = await reach(path, body && {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  });
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(content.error ?? `The server answered ${answer.status}.`);
  return content;
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Is it running?");
  }
}

/** Read /v1/panel: the header's length, a JSON header, float32 labels, uint8 events. */
export async function askPanel() {
  const answer = await reach("v1/panel");
  if (!answer.ok) throw new Error(`The history could not be loaded: the server answered ${answer.status}.`);
  const bytes = await answer.arrayBuffer();
  const size = new DataView(bytes).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, size)));
  const cells = header.series.length * header.periods.length;
  return {
    ...header,
    labels: new Float32Array(bytes, 4 + size, cells),
    codes: new Uint8Array(bytes, 4 + size + 4 * cells, cells),
  };
}

const UNITS = { h: 3600, d: 86400, w: 604800 };

export const secondsOf = (frequency) => parseInt(frequency, 10) * UNITS[frequency.at(-1)];
export const timeOf = (period) => Date.parse(period.length === 10 ? `${period}T00:00:00Z` : `${period}Z`) / 1000;
