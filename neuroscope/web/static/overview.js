// The overview: all layers, one per row, with the number of neurons above the threshold.

import { drawOverview } from "./canvas.js";
import { css } from "./color.js";
import { fill, h, short, signed, tooltip } from "./dom.js";

const STEPS = 41; // of the legend

/** Draw the overview of a probe. */
export function overview(view) {
  const { found, state, parts } = view;
  const count = found.layers.length;
  const rowHeight = Math.max(9, Math.min(26, Math.floor(400 / count)));
  const canvas = h("canvas", {
    tabindex: 0, role: "application",
    "aria-label": `${count} layers by ${found.neurons} neurons, ${view.meaning}. Up and down choose a layer, Enter goes to its neurons.`,
  });
  const hits = h("div", { class: "hits" });
  const labels = h("div", { class: "labels" });
  fill(
    parts.overview,
    h("h2", {}, `All layers: ${view.meaning}`),
    h("div", { class: "strip" }, labels, h("div", { class: "canvas" }, canvas), hits),
    legend(view.limit),
  );
  const drawn = drawOverview(canvas, view.layers, {
    width: Math.max(120, canvas.parentElement.clientWidth),
    rowHeight, limit: view.limit, threshold: state.threshold, selected: view.row,
  });
  const most = Math.max(1, ...drawn.hits);
  const tall = `height:${rowHeight}px`;
  fill(labels, ...found.layers.map((layer) => h("div", { style: tall }, String(layer))));
  fill(hits, ...drawn.hits.map((number) =>
    h("div", { style: tall, title: `${number} neurons reach the threshold` },
      h("span", { class: "bar", style: `width:${(100 * number) / most}%` }), h("span", {}, String(number)))));
  parts.results.querySelector(".threshold output").textContent = short(state.threshold);
  listen(view, canvas, drawn);
}

function listen(view, canvas, drawn) {
  const { found, state, parts } = view;
  const tip = tooltip(parts.overview);
  canvas.addEventListener("mousemove", (event) => {
    const { row, unit } = drawn.at(event.offsetX, event.offsetY);
    tip.show(event, `${view.nameOf(row, unit)}: ${signed(view.layers[row][unit])}`);
  });
  canvas.addEventListener("mouseleave", () => tip.hide());
  canvas.addEventListener("click", (event) => {
    const { row, unit } = drawn.at(event.offsetX, event.offsetY);
    view.choose(found.layers[row], unit);
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (step) {
      event.preventDefault();
      const next = Math.max(0, Math.min(found.layers.length - 1, view.row + step));
      view.choose(found.layers[next], null);
      parts.overview.querySelector("canvas").focus();
    } else if (event.key === "Enter" && state.layer != null) {
      parts.layer.querySelector("canvas")?.focus();
    }
  });
}

/** Return the legend of the colours, which tells where they are clipped. */
function legend(limit) {
  const cells = Array.from({ length: STEPS }, (_, index) => {
    const value = ((index / (STEPS - 1)) * 2 - 1) * limit;
    return h("span", { style: `background:${css(value, limit).background}` });
  });
  return h("div", { class: "legend" },
    `−${short(limit)}`, h("span", { class: "scale" }, ...cells), `+${short(limit)}`,
    h("span", { class: "soft" }, "Colours are clipped there, at 99.8 % of the neurons. The overview leaves out what is below the threshold."));
}
