// What-if: another value of what is known ahead in one target period, and the forecast it gives.

import { ask, timeOf } from "./api.js";
import { $, day, make, signed, terms, told, whole, words } from "./format.js";

let key = null, ahead = null, changes = [], tried = () => {};

export function setUp(report) {
  tried = report;
  $("try-feature").addEventListener("change", field);
  $("try-step").addEventListener("change", field);
  $("try").addEventListener("submit", (event) => { event.preventDefault(); attempt(); });
  $("try-reset").addEventListener("click", () => { changes = []; show(null); tried(null); });
}

export async function setSeries(named) {
  [key, ahead, changes] = [named, null, []];
  show(null);
  $("try").hidden = true;
  const wanted = named;
  try {
    const answer = await ask(`v1/what-if?${new URLSearchParams(named)}`);
    if (wanted !== key) return; // another series was chosen meanwhile
    ahead = answer;
  } catch (error) {
    if (wanted === key) $("try-note").textContent = error.message;
    return;
  }
  const some = ahead.features.length > 0;
  $("try").hidden = !some;
  $("try-note").textContent = some
    ? "Change what is known ahead of a period. The answer is what the model learned of it, not an experiment."
    : "This model reads nothing that is known ahead, so there is nothing to try.";
  const option = (value, text) => { const made = make("option", "", text); made.value = value; return made; };
  $("try-feature").replaceChildren(...ahead.features.map((one) => option(one.feature, words(one.feature))));
  $("try-step").replaceChildren(...ahead.periods.map((period, i) => option(i + 1, day.format(timeOf(period) * 1000))));
  if (some) field();
}

const featureNow = () => ahead.features.find((one) => one.feature === $("try-feature").value);

/** Put in a field of the feature's kind, with the value it has now. */
function field() {
  const feature = featureNow(), now = feature.values[$("try-step").value - 1];
  let made;
  if (feature.kind === "number") {
    made = make("input");
    made.type = "number";
    made.step = "any";
    made.value = now ?? 0;
    made.required = true;
  } else {
    const options = feature.kind === "flag" ? [["true", "yes"], ["false", "no"]] : feature.options.map((value) => [value, words(value) || "none"]);
    made = make("select", "", ...options.map(([value, text]) => { const one = make("option", "", text); one.value = value; return one; }));
    made.value = String(now ?? "");
  }
  made.id = "try-value";
  $("try-value").replaceWith(made);
}

async function attempt() {
  const feature = featureNow(), text = $("try-value").value, step = Number($("try-step").value);
  const value = feature.kind === "number" ? Number(text) : feature.kind === "flag" ? text === "true" : text;
  changes = [...changes.filter((one) => one.step !== step || one.feature !== feature.feature), { step, feature: feature.feature, value }];
  const asked = key;
  try {
    const answer = await ask("v1/what-if", { series: key, changes });
    if (asked !== key) return;
    show(answer);
    tried(new Map(answer.after.map((one) => [timeOf(one.period), one.quantiles["0.5"]])));
  } catch (error) {
    $("try-note").textContent = error.message;
  }
}

function show(answer) {
  $("try-result").hidden = $("try-reset").hidden = !answer;
  $("try-changes").replaceChildren(...changes.map((one) =>
    make("li", "", `${words(one.feature)} in the period to ${day.format(timeOf(ahead.periods[one.step - 1]) * 1000)}: ${words(String(one.value)) || "none"}`)));
  if (!answer) return;
  const sum = (steps) => steps.reduce((total, one) => total + one.quantiles["0.5"], 0);
  const [before, after] = [sum(answer.before), sum(answer.after)];
  const touched = [...new Set(changes.map((one) => one.step))].sort((a, b) => a - b);
  terms($("try-result"), [
    ...touched.slice(0, 4).map((step) => {
      const [old, now] = [answer.before, answer.after].map((steps) => steps[step - 1].quantiles["0.5"]);
      return [day.format(timeOf(ahead.periods[step - 1]) * 1000), `${whole.format(old)} → ${whole.format(now)}`, told(old ? now / old - 1 : null, signed)];
    }),
    ["all periods", `${whole.format(before)} → ${whole.format(after)}`, told(before ? after / before - 1 : null, signed)],
  ]);
}
