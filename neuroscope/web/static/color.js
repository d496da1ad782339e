// The diverging colour map: blue below zero, orange above, distinct for all kinds of colour vision.

const STOPS = {
  light: [[5, 62, 122], [67, 147, 195], [246, 246, 244], [241, 163, 64], [140, 62, 4]],
  dark: [[140, 200, 255], [48, 112, 178], [30, 33, 38], [196, 106, 28], [255, 196, 120]],
};
const LEVELS = 255;

/** Return the theme in use, "light" or "dark". */
export function theme() {
  const chosen = document.documentElement.dataset.theme;
  if (chosen) return chosen;
  return window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

const tables = {};

/** Return the colours of a theme, (256, RGBA) bytes; 128 is zero. */
export function table(name = theme()) {
  if (tables[name]) return tables[name];
  const stops = STOPS[name];
  const colors = new Uint8ClampedArray(4 * (LEVELS + 1));
  for (let level = 0; level <= LEVELS; level += 1) {
    const place = (level / LEVELS) * (stops.length - 1);
    const first = Math.min(Math.floor(place), stops.length - 2);
    for (let part = 0; part < 3; part += 1) {
      const [from, to] = [stops[first][part], stops[first + 1][part]];
      colors[4 * level + part] = from + (place - first) * (to - from);
    }
    colors[4 * level + 3] = 255;
  }
  tables[name] = colors;
  return colors;
}

/** Return the level of a value, 0 to 255, on a scale from -limit to limit. */
export function level(value, limit) {
  const share = limit > 0 ? value / limit : 0;
  return Math.round(((Math.max(-1, Math.min(1, share)) + 1) / 2) * LEVELS);
}

/** Return the colours of a cell that shows a value, as a style. */
export function shade(value, limit) {
  const { background, light } = css(value, limit);
  const text = light ? "#fff" : "#111";
  return `background:${background};color:${text};--link:${text}`;
}

/** Return the colour of a value for CSS, and whether text on it has to be light. */
export function css(value, limit) {
  const colors = table();
  const start = 4 * level(value, limit);
  const [red, green, blue] = colors.slice(start, start + 3);
  const brightness = 0.299 * red + 0.587 * green + 0.114 * blue;
  return { background: `rgb(${red} ${green} ${blue})`, light: brightness < 140 };
}

/**
 * Return the limit of the scale: a share of the values is within it, the others are clipped.
 * Of many values, every n-th is looked at.
 */
export function clipping(values, share = 0.998) {
  const step = Math.max(1, Math.floor(values.length / 200000));
  const sizes = new Float32Array(Math.ceil(values.length / step));
  for (let index = 0; index < sizes.length; index += 1) sizes[index] = Math.abs(values[index * step]);
  sizes.sort();
  return sizes[Math.min(sizes.length - 1, Math.floor(share * sizes.length))] || 1;
}
