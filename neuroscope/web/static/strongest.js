// Tables of a probe: the strongest neurons, which are the twin of the canvases, and the similarity of prompts.

import { shade } from "./color.js";
import { fill, h, signed, table } from "./dom.js";
import { promptName } from "./state.js";

const ROWS = 25;

/** Draw the strongest neurons of the chosen layer, or of all layers. */
export function strongestTable(view) {
  const { found, parts, row } = view;
  const rows = row < 0 ? found.layers.map((_, index) => index) : [row];
  const heads = ["neuron", view.meaning, ...found.prompts.map((_, index) => [promptName(index), "z: standard deviations from the usual value"])];
  const cells = strongest(view.layers, rows).map(({ row: at, unit, value }) => {
    const name = view.nameOf(at, unit);
    const choose = () => view.choose(found.layers[at], unit);
    return h("tr", { "data-neuron": name },
      h("td", {}, h("button", { type: "button", class: "link", "data-neuron": name, onclick: choose }, name), view.watchButton(name)),
      h("td", { style: shade(value, view.limit) }, signed(value)),
      ...view.zOf(at, unit).map((z) => h("td", {}, signed(z))));
  });
  fill(parts.strongest,
    h("h2", {}, row < 0 ? "Strongest neurons of all layers" : `Strongest neurons of layer ${found.layers[row]}`),
    table(heads, cells),
    h("p", { class: "soft" }, "A, B, … are z: standard deviations from the neuron's usual value."));
  markChosen(view);
}

/** Mark the row of the chosen neuron. */
export function markChosen(view) {
  const name = view.state.unit == null ? null : view.nameOf(view.row, view.state.unit);
  for (const row of view.parts.strongest.querySelectorAll("tbody tr")) {
    row.classList.toggle("chosen", row.dataset.neuron === name);
  }
}

/** Return the neurons with the largest sizes in some layers, the largest first. */
function strongest(layers, rows) {
  const best = [];
  let least = -1; // size that a neuron has to exceed
  for (const row of rows) {
    layers[row].forEach((value, unit) => {
      const size = Math.abs(value);
      if (size <= least) return;
      let place = best.length;
      while (place > 0 && best[place - 1].size < size) place -= 1;
      best.splice(place, 0, { row, unit, value, size });
      if (best.length > ROWS) best.pop();
      if (best.length === ROWS) least = best[ROWS - 1].size;
    });
  }
  return best;
}

/** Return the table of how similar a prompt is to the first, layer by layer; null if there is one prompt. */
export function comparison(found, prompt = 1) {
  if (found.prompts.length < 2) return null;
  const [a, b] = [found.prompts[0].text, found.prompts[Math.max(1, prompt)].text];
  return similarity(found.comparison, a, b, promptName(Math.max(1, prompt)));
}

/** Return the table of how similar two prompts are, given rows of all pairs; null without such rows. */
export function similarity(rows, a, b, name = "B") {
  const own = rows.filter((row) => row.view === "span" && row.a === a && row.b === b);
  if (!own.length) return null;
  const heads = [
    "layer", ["cosine", "of the activations"], ["MSE", "mean squared difference"],
    ["cosine of z", "of standardised activations, in which no dimension dominates"],
    ["difference of z", "root mean squared, in standard deviations"],
  ];
  const number = (value) => h("td", {}, signed(value).replace("+", ""));
  return h("section", { class: "comparison" },
    h("h2", {}, `How similar are A and ${name} in the words that differ?`),
    table(heads, own.map((row) => h("tr", {},
      h("td", {}, String(row.layer)), ...[row.cosine, row.mse, row.cosine_z, row.rms_z].map(number)))));
}
