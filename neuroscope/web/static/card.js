// What an atlas holds on a neuron: histogram, topics, examples, tokens and neighbours.

import { h, short, signed, table } from "./dom.js";

/** Heads of columns with their meanings. */
export const MEANINGS = {
  auroc: ["AUROC", "probability that the neuron is more active on a prompt of the topic than on another; 0.5 is chance"],
  partial: ["partial", "AUROC once the effect of length, punctuation, capitals, digits and source is removed"],
  ap: ["AP", "average precision; chance is the topic's share of the prompts"],
  rival: ["one vs one", "AUROC against the topic that is hardest to tell apart"],
  d: ["d", "difference of the means on and off the topic, in standard deviations"],
};
const EXAMPLES = 5; // of each kind

/** Return the card of a neuron, given the answer of the server; `onNeuron` gets the name of a neighbour. */
export function card(own, onNeuron) {
  return h("div", { class: "card" },
    histogram(own),
    h("p", { class: "soft" },
      `Mean ${signed(own.mean)}, sd ${short(own.sd)}, from ${signed(own.low)} to ${signed(own.high)}; positive at ${Math.round(100 * own.active)} % of the prompts.`),
    topics(own),
    words("promotes", own.promotes),
    words("suppresses", own.suppresses),
    own.neighbours.length
      ? h("p", {}, h("b", {}, "neighbours "), ...own.neighbours.flatMap((near) => [
          h("button", { type: "button", class: "link", onclick: () => onNeuron(near.neuron) }, near.neuron), ` ${near.cosine.toFixed(2)}  `]))
      : null,
    ...["strongest", "random", "weakest"].map((kind) => examples(kind, own.examples.filter((example) => example.kind === kind))),
  );
}

/** Return the histogram of a neuron over all prompts, with bars of equal width. */
function histogram({ edges, counts }) {
  const [width, height, bars] = [420, 70, 60];
  const [low, high] = [edges[0], edges.at(-1)];
  const heights = new Float64Array(bars);
  counts.forEach((count, bin) => {
    // the prompts of a bin are spread evenly over its width
    const [from, to] = [edges[bin], edges[bin + 1]];
    for (let bar = 0; bar < bars; bar += 1) {
      const [left, right] = [low + ((high - low) * bar) / bars, low + ((high - low) * (bar + 1)) / bars];
      if (to <= from) heights[bar] += from >= left && (from < right || bar === bars - 1) ? count : 0;
      else heights[bar] += (count * Math.max(0, Math.min(to, right) - Math.max(from, left))) / (to - from);
    }
  });
  const most = Math.max(...heights, 1e-9);
  const svg = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "histogram", role: "img", "aria-label": `histogram from ${signed(low)} to ${signed(high)}` });
  heights.forEach((count, bar) => {
    const size = (count / most) * height;
    picture.append(svg("rect", { x: (bar * width) / bars, y: height - size, width: width / bars - 1, height: size }));
  });
  return h("figure", {}, picture, h("figcaption", { class: "soft" }, h("span", {}, signed(low)), h("span", {}, signed(high))));
}

function topics(own) {
  const heads = ["topic", MEANINGS.auroc, ["covariate alone", "AUROC of length, punctuation or source, without the model"], MEANINGS.partial,
    "verdict", MEANINGS.ap, MEANINGS.rival, ["rival", "the topic that is hardest to tell apart"]];
  const number = (value) => h("td", {}, value == null ? "–" : value.toFixed(3).replace("-", "−"));
  return h("div", {},
    table(heads, own.topics.slice(0, 10).map((row) => h("tr", {},
      h("td", {}, row.topic), number(row.auroc_heldout), number(row.covariate_auroc), number(row.partial_auroc),
      h("td", { class: "text" }, verdict(row)),
      number(row.ap_heldout), number(row.one_vs_one), h("td", { class: "text" }, row.rival ?? "–"))), [4, 7]),
    h("p", { class: "soft" }, "“Covariate alone”: the AUROC that the prompts' length, punctuation or source reaches without the model."));
}

/** Return what an entry says about a neuron and a topic, and what silencing showed, in words. */
export function verdict(row) {
  const responds = row.polarity > 0 ? "active" : "silent";
  const own = row.selective ? (row.confounded ? "confounded" : responds) : null;
  return [own, row.verified].filter(Boolean).join(", ") || "–";
}

function words(title, tokens) {
  if (!tokens?.length) return null;
  return h("p", {}, h("b", {}, `${title} `), ...tokens.map(({ token }) => h("span", { class: "chip" }, token)));
}

function examples(kind, rows) {
  if (!rows.length) return null;
  return h("div", {}, h("h3", {}, kind),
    ...rows.slice(0, EXAMPLES).map((row) => h("p", { class: "example" }, h("b", {}, signed(row.value)), " ", ...marked(row.excerpt))));
}

/** Return an excerpt whose token in brackets is marked. */
function marked(excerpt) {
  const found = /^([\s\S]*?)\[([\s\S]*?)\]([\s\S]*)$/.exec(excerpt);
  return found ? [found[1], h("mark", {}, found[2]), found[3]] : [excerpt];
}
