// Drift: checked versions over dates, and what a check has found.

import { request } from "./api.js";
import { shade } from "./color.js";
import { fill, h, short, signed, table } from "./dom.js";

const MARKS = { identical: "＝", compatible: "✓", drifted: "✗", inconclusive: "?" };

/** Draw the list of checks, or one of them: /drift/RUN */
export async function driftView(root, state) {
  if (state.path[0]) return checkView(root, state.path[0]);
  const found = await request("GET", "/api/drift");
  const registered = found.some((own) => own.model); // versions of models in a registry
  const heads = ["check", "date", "verdict", ...(registered ? ["model", "version"] : []), "distance", "95 % limits", "margin", "KL, nats", ""];
  const number = (value) => h("td", {}, value == null ? "–" : short(value));
  const rows = found.map((own) => h("tr", {},
    h("td", {}, h("a", { href: `/drift/${own.run_id}` }, own.name)),
    h("td", { class: "text" }, new Date(own.started).toLocaleString()),
    h("td", { class: "text" }, verdict(own.verdict)),
    ...(registered ? [own.model || "–", own.version ? `${own.base_version} → ${own.version}` : "–"] : []).map((text) => h("td", { class: "text" }, text)),
    number(own.statistic),
    h("td", {}, own.lower == null ? "–" : `${short(own.lower)} to ${short(own.upper)}`),
    number(own.margin), number(own.kl),
    h("td", {}, own.address ? h("a", { href: own.address }, "MLflow") : "")));
  fill(root, h("div", { class: "page wide" }, h("h1", {}, "Drift"), rows.length
    ? h("section", {}, table(heads, rows, registered ? [1, 2, 3, 4] : [1, 2]))
    : h("p", { class: "soft" }, "No version is checked yet: ", h("code", {}, "neuroscope drift BASE CANDIDATE"))));
}

function verdict(name) {
  return h("span", { class: `verdict ${name}` }, `${MARKS[name] ?? ""} ${name}`);
}

const shortName = (model) => model.replace(/\/$/, "").split("/").at(-1);
const tone = (value) => (value == null ? null : value < 0 ? "worse" : "better");

async function checkView(root, id) {
  const own = await request("GET", `/api/drift/${encodeURIComponent(id)}`);
  fill(root, h("div", { class: "page wide" },
    h("h1", {}, `${shortName(own.candidate)} against ${shortName(own.base)}`),
    h("p", {}, verdict(own.verdict), ` ${own.headline} ${own.summary}`),
    h("p", {}, ...Object.entries(own.links).flatMap(([name, address]) => [h("a", { href: address }, name), " "])),
    h("div", { class: "results" },
      h("div", { class: "columns" },
        h("div", { class: "results" }, profile(own.layers), topics(own.topics)),
        h("div", { class: "results" }, neurons(own.neurons))),
      topicMap(own),
      prompts(own),
      h("div", { class: "columns" },
        tokens("What does the new version prefer to say?", own.tokens_up, "better"),
        tokens("And less?", own.tokens_down, "worse")),
    ),
    ...own.notes.map((note) => h("p", { class: "note" }, note))));
}

/** Return a section with a table; null without rows. */
function part(title, heads, rows, texts, note) {
  if (!rows.length) return null;
  return h("section", {}, h("h2", {}, title), table(heads, rows, texts), note && h("p", { class: "soft" }, note));
}

/** Return the distance of each layer as bars: 1 − r, the median over neurons. */
function profile(layers) {
  const rows = layers.filter((row) => row.one_minus_r != null);
  const most = Math.max(...rows.map((row) => row.one_minus_r), 1e-12);
  return part("In which layers?", ["site", "distance (1 − r)", ""], rows.map((row) => h("tr", {},
    h("td", {}, `${row.site}.${row.layer}`), h("td", {}, short(row.one_minus_r)),
    h("td", { class: "text" }, h("span", { class: "bar", style: `width:${(200 * row.one_minus_r) / most}px` })))));
}

function topics(rows) {
  return part("On which topics?", ["topic", "prompts", "divergence", "gain, nats per token"], rows.map((row) => h("tr", {},
    h("td", {}, row.topic), h("td", {}, String(row.prompts)), h("td", {}, short(row.divergence)),
    h("td", { class: tone(row.gain) }, signed(row.gain)))));
}

function topicMap(own) {
  const rows = own.topics_by_layer;
  const most = Math.max(...rows.flatMap((row) => row.changes), 1e-12);
  const sites = own.layers.slice(0, rows[0]?.changes.length).map((row) => `${row.site}.${row.layer}`);
  return part("In which layers, on which topics?", ["topic", ...sites],
    rows.map((row) => h("tr", {}, h("td", {}, row.topic), ...row.changes.map((change) => {
      return h("td", { style: shade(change, most) }, short(change));
    }))), [], "Root mean squared change of the neurons, in standard deviations of the base.");
}

function neurons(rows) {
  return part("Which neurons moved?", ["neuron", "1 − r", "shift, sd", "topic before", "topic after"],
    rows.map((row) => h("tr", {}, h("td", {}, row.neuron), h("td", {}, short(row.one_minus_r)), h("td", {}, signed(row.shift)),
      h("td", { class: "text" }, row.base_topic), h("td", { class: "text" }, row.candidate_topic))), [3, 4]);
}

function prompts(own) {
  const heads = ["prompt", "topic", "base", "candidate", "change", "divergence", "most at"];
  const rows = own.changed_prompts.map((row) => {
    const change = row.base == null ? null : row.candidate - row.base;
    return h("tr", {}, h("td", { class: "text" }, row.text), h("td", { class: "text" }, row.topic),
      ...[row.base, row.candidate].map((value) => h("td", {}, signed(value))),
      h("td", { class: tone(change) }, signed(change)), h("td", {}, short(row.divergence)), h("td", { class: "text" }, row.token));
  });
  return part("Which prompts changed most?", heads, rows, [1, 6], h("span", {},
    "Mean log probability of the prompt's tokens. Of all prompts, ",
    h("b", { class: "worse" }, `${own.regressed ?? "–"} regressed`), " and ", h("b", { class: "better" }, `${own.improved ?? "–"} improved`), "."));
}

function tokens(title, rows, kind) {
  return part(title, ["token", "before", "after", "log ratio"], rows.map((row) => h("tr", {},
    h("td", {}, row.text), h("td", {}, short(row.base)), h("td", {}, short(row.candidate)), h("td", { class: kind }, signed(row.ratio)))));
}
