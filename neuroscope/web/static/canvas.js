// Canvases: the overview of all layers, and the grid of one layer.

import { level, table } from "./color.js";

/** Return rows and columns of a grid that holds a number of neurons exactly: 4,096 gives 64 x 64. */
export function gridShape(count) {
  let rows = Math.floor(Math.sqrt(count));
  while (count % rows) rows -= 1;
  if (count / rows > 4 * rows) {
    // a prime or nearly so: the last row stays incomplete
    rows = Math.floor(Math.sqrt(count));
  }
  return [rows, Math.ceil(count / rows)];
}

/** Draw an image of colour levels, with cells of whole pixels where they fit. */
function drawImage(canvas, levels, rows, columns, width, height) {
  const colors = table();
  const image = new ImageData(columns, rows);
  const pixels = new Uint32Array(image.data.buffer);
  const palette = new Uint32Array(colors.buffer);
  for (let cell = 0; cell < levels.length; cell += 1) pixels[cell] = palette[levels[cell]];
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const buffer = new OffscreenCanvas(columns, rows);
  buffer.getContext("2d").putImageData(image, 0, 0);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(buffer, 0, 0, canvas.width, canvas.height);
  return { context, scale };
}

/**
 * Draw all layers, one per row; each column shows the neuron with the largest size in its bin.
 * Values below the threshold are drawn as zero. Returns what is needed to find the neuron under a point.
 */
export function drawOverview(canvas, layers, { width, rowHeight, limit, threshold, selected }) {
  const count = layers[0].length;
  const columns = Math.min(count, Math.floor(width));
  const levels = new Uint8Array(layers.length * columns);
  const strongest = new Int32Array(layers.length * columns);
  const hits = layers.map((values, row) => {
    let found = 0;
    for (let column = 0; column < columns; column += 1) {
      const end = Math.floor(((column + 1) * count) / columns);
      let best = Math.floor((column * count) / columns);
      for (let unit = best; unit < end; unit += 1) {
        if (Math.abs(values[unit]) >= threshold) found += 1;
        if (Math.abs(values[unit]) > Math.abs(values[best])) best = unit;
      }
      strongest[row * columns + column] = best;
      const shown = Math.abs(values[best]) >= threshold ? values[best] : 0;
      levels[row * columns + column] = level(shown, limit);
    }
    return found;
  });
  const height = layers.length * rowHeight;
  const { context, scale } = drawImage(canvas, levels, layers.length, columns, width, height);
  if (selected != null && selected >= 0) {
    context.strokeStyle = getComputedStyle(canvas).color;
    context.lineWidth = 2 * scale;
    const top = selected * rowHeight * scale;
    context.strokeRect(scale, top + scale, canvas.width - 2 * scale, rowHeight * scale - 2 * scale);
  }
  const at = (x, y) => {
    const row = Math.min(layers.length - 1, Math.max(0, Math.floor(y / rowHeight)));
    const column = Math.min(columns - 1, Math.max(0, Math.floor((x / width) * columns)));
    return { row, unit: strongest[row * columns + column] };
  };
  return { hits, at };
}

/** Draw the neurons of a layer in a grid, with the cursor, the chosen neuron and those that are selected. */
export function drawGrid(canvas, values, { width, limit, cursor, chosen, selection }) {
  const [rows, columns] = gridShape(values.length);
  const cell = Math.max(2, Math.floor(width / columns));
  const levels = new Uint8Array(rows * columns).fill(128);
  for (let unit = 0; unit < values.length; unit += 1) levels[unit] = level(values[unit], limit);
  const [shown, height] = [cell * columns, cell * rows];
  const { context, scale } = drawImage(canvas, levels, rows, columns, shown, height);
  const frame = (unit, color, line) => {
    const [row, column] = [Math.floor(unit / columns), unit % columns];
    context.strokeStyle = color;
    context.lineWidth = line * scale;
    const outside = line / 2 + 1;
    context.strokeRect(
      (column * cell - outside) * scale,
      (row * cell - outside) * scale,
      (cell + 2 * outside) * scale,
      (cell + 2 * outside) * scale,
    );
  };
  const style = getComputedStyle(canvas);
  const color = (name) => style.getPropertyValue(name).trim();
  for (const unit of selection) frame(unit, color("--selected"), 1.5);
  if (chosen != null) frame(chosen, color("--text"), 2);
  if (cursor != null && cursor !== chosen) frame(cursor, color("--focus"), 2);
  const at = (x, y) => {
    const [row, column] = [Math.floor(y / cell), Math.floor(x / cell)];
    const unit = row * columns + column;
    const inside = row >= 0 && row < rows && column >= 0 && column < columns;
    return inside && unit < values.length ? unit : null;
  };
  return { rows, columns, cell, at };
}
