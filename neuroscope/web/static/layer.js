// The grid of one layer: every neuron is a cell; a click chooses one, a box selects several.

import { drawGrid } from "./canvas.js";
import { fill, h, signed, tooltip } from "./dom.js";

/** Draw the grid of the chosen layer of a probe. */
export function layerGrid(view) {
  const { state, parts, row } = view;
  if (row < 0) {
    fill(parts.layer, h("p", { class: "soft" }, "Click a layer to see its neurons."));
    return;
  }
  const shown = view.layers[row];
  const canvas = h("canvas", {
    tabindex: 0, role: "application",
    "aria-label": `${shown.length} neurons of layer ${state.layer}. Arrows move, Enter chooses, Space selects, W watches.`,
  });
  const where = h("p", { class: "where", "aria-live": "polite" });
  const actions = h("p", { class: "actions" });
  fill(parts.layer, h("h2", {}, `Layer ${state.layer}: ${shown.length} ${view.found.site === "mlp_act" ? "neurons" : "dimensions"}`),
    h("div", { class: "canvas" }, canvas), where, actions);
  const width = Math.min(560, Math.max(200, parts.layer.clientWidth - 28));
  const grid = (view.grid = { paint });
  paint();
  listen(view, canvas, grid);

  function paint() {
    const options = { width, limit: view.limit, cursor: view.cursor, chosen: state.unit, selection: view.selection };
    Object.assign(grid, drawGrid(canvas, shown, options));
    const at = view.cursor ?? state.unit;
    const hint = "Point, click, or drag a box to select several.";
    fill(where, at == null ? hint : `${view.nameOf(row, at)}: ${signed(shown[at])}`);
    const names = [...view.selection].map((unit) => view.nameOf(row, unit));
    const clear = () => {
      view.selection.clear();
      paint();
    };
    fill(actions, ...(names.length
      ? [h("button", { type: "button", onclick: () => view.watch(names) }, `Watch ${names.length} selected`), " ",
          h("button", { type: "button", onclick: clear }, "Clear the selection")]
      : []));
  }
}

function listen(view, canvas, grid) {
  const { parts, row, state } = view;
  const shown = view.layers[row];
  const tip = tooltip(parts.layer);
  let start = null;
  canvas.addEventListener("mousemove", (event) => {
    const unit = grid.at(event.offsetX, event.offsetY);
    if (unit == null) return tip.hide();
    tip.show(event, `${view.nameOf(row, unit)}: ${signed(shown[unit])}`);
    if (!event.buttons) start = null; // released outside
    if (start != null && unit !== start) {
      view.selection = new Set(box(grid, start, unit, shown.length));
      grid.paint();
    }
  });
  canvas.addEventListener("mouseleave", () => tip.hide());
  canvas.addEventListener("mousedown", (event) => {
    start = grid.at(event.offsetX, event.offsetY);
  });
  canvas.addEventListener("mouseup", (event) => {
    const unit = grid.at(event.offsetX, event.offsetY);
    if (unit != null && unit === start) {
      view.selection.clear();
      view.choose(state.layer, unit);
    }
    start = null;
  });
  canvas.addEventListener("keydown", (event) => {
    const { columns } = grid;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const at = view.cursor ?? 0;
    if (step) {
      event.preventDefault();
      if (at + step >= 0 && at + step < shown.length) view.cursor = at + step;
      grid.paint();
    } else if (event.key === "Enter") {
      view.choose(state.layer, at);
      parts.layer.querySelector("canvas").focus();
    } else if (event.key === " ") {
      event.preventDefault();
      if (!view.selection.delete(at)) view.selection.add(at);
      grid.paint();
    } else if (event.key.toLowerCase() === "w") {
      view.watch([view.nameOf(row, at)]);
    }
  });
}

/** Return the neurons of a box of the grid, given two of its corners. */
function box({ columns }, first, second, count) {
  const place = (unit) => [Math.floor(unit / columns), unit % columns];
  const [[top, left], [bottom, right]] = [place(first), place(second)];
  const units = [];
  for (let row = Math.min(top, bottom); row <= Math.max(top, bottom); row += 1) {
    for (let column = Math.min(left, right); column <= Math.max(left, right); column += 1) {
      const unit = row * columns + column;
      if (unit < count) units.push(unit);
    }
  }
  return units;
}
