// A picture of a probe: prompts, overview, grid and legend, as a PNG file.

import { table } from "./color.js";
import { short } from "./dom.js";
import { promptName } from "./state.js";

const [MARGIN, LINE, WIDTH] = [24, 20, 1200];

/** Download what is shown of a probe as a picture. */
export function picture(view) {
  const { found, state, parts } = view;
  const all = parts.overview.querySelector("canvas");
  const grid = parts.layer.querySelector("canvas");
  const inner = WIDTH - 2 * MARGIN;
  const label = 28; // of the layers
  const tall = (all.height * (inner - label)) / all.width;
  const size = grid ? Math.min(1, inner / 2 / grid.width) : 0;
  const lines = [
    `${found.model}, ${found.site}: ${view.meaning}, threshold ${short(state.threshold)}`,
    ...found.prompts.slice(0, 12).map(({ text }, index) => `${promptName(index)}  ${text}`),
  ];
  const canvas = document.createElement("canvas");
  canvas.width = WIDTH;
  canvas.height = 2 * MARGIN + LINE * (lines.length + 4) + tall + (grid ? LINE * 2 + grid.height * size : 0);
  const context = canvas.getContext("2d");
  const style = getComputedStyle(document.body);
  context.fillStyle = style.backgroundColor;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = style.color;
  context.font = "14px system-ui, sans-serif";
  context.imageSmoothingEnabled = false;
  let y = MARGIN;
  const write = (text) => context.fillText(text, MARGIN, (y += LINE), inner);
  lines.forEach(write);
  y += LINE / 2;
  context.drawImage(all, MARGIN + label, y, inner - label, tall);
  found.layers.forEach((layer, row) => {
    context.fillText(String(layer), MARGIN, y + (tall * (row + 0.7)) / found.layers.length);
  });
  y += tall + LINE / 2;
  legend(context, y, view.limit);
  y += LINE * 1.5;
  if (grid) {
    write(`Layer ${state.layer}${state.unit == null ? "" : `, neuron ${view.nameOf(view.row, state.unit)}`}`);
    context.drawImage(grid, MARGIN, y + LINE / 2, grid.width * size, grid.height * size);
  }
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `neuroscope-${found.model.split("/").at(-1)}-${found.site}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }, "image/png");
}

/** Draw the colours with the values at which they are clipped. */
function legend(context, y, limit) {
  const colors = table();
  const [left, width] = [MARGIN + 70, 256];
  const text = context.fillStyle;
  for (let level = 0; level < 256; level += 1) {
    const [red, green, blue] = colors.slice(4 * level, 4 * level + 3);
    context.fillStyle = `rgb(${red} ${green} ${blue})`;
    context.fillRect(left + level, y, 1, 14);
  }
  context.fillStyle = text;
  context.fillText(`−${short(limit)}`, MARGIN, y + 12, 66);
  context.fillText(`+${short(limit)}  clipped at 99.8 % of the neurons`, left + width + 8, y + 12);
}
