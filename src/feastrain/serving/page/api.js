// The server's answers, and its errors as sentences.

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const listSeries = () => ask("v1/series");

export function history(key, signal) {
  return ask(`v1/history?${new URLSearchParams(key)}`, { signal });
}

export function forecast(key, signal) {
  return ask("v1/forecasts", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ series: [key] }),
    signal,
  });
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server cannot be reached. Is it still running?");
  }
  const text = await response.text();
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {
    body = null;
  }
  if (!response.ok) {
    throw new Refused(response.status, body?.error ?? `The server answered ${response.status}.`);
  }
  if (body === null) throw new Refused(response.status, "The server's answer is not JSON.");
  return body;
}
