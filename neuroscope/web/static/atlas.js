// The atlas: from topics to neurons, from neurons to topics, selective neurons per layer, search by text.

import { request } from "./api.js";
import { MEANINGS, card, verdict } from "./card.js";
import { shade } from "./color.js";
import { faultText, fill, h, short, table } from "./dom.js";
import { watching } from "./state.js";

const COLUMNS = [["auroc_heldout", MEANINGS.auroc], ["partial_auroc", MEANINGS.partial], ["ap_heldout", MEANINGS.ap], ["one_vs_one", MEANINGS.rival], ["d", MEANINGS.d]];
const NAMES = { tokens: "length", question_mark: "question mark", upper_case: "upper case" };

/** Draw the list of atlases, or one of them: /atlas/RUN?topic=…&neuron=… */
export async function atlasView(root, state) {
  const recorded = await request("GET", "/api/atlases");
  if (!recorded.length) {
    fill(root, h("div", { class: "page" }, h("h1", {}, "Atlas"),
      h("p", { class: "soft" }, "No atlas is recorded yet. Build one: ", h("code", {}, "neuroscope atlas build prompts.csv"))));
    return;
  }
  const view = new AtlasView(root, state.path[0] || recorded[0].run_id, recorded, state.query);
  await view.draw();
}

class AtlasView {
  constructor(root, run, recorded, query) {
    this.run = run;
    for (const name of ["topic", "layer", "neuron", "text"]) this[name] = query.get(name);
    const choose = h("select", { "aria-label": "Atlas", onchange: (event) => this.open(`/atlas/${event.target.value}`) },
      ...recorded.map((own) => h("option", { value: own.run_id, selected: own.run_id === run },
        `${own.name} (${new Date(own.started).toLocaleDateString()})`)));
    this.parts = Object.fromEntries(["summary", "neurons", "card"].map((name) => [name, h("section", { class: name })]));
    const { summary, neurons, card: own } = this.parts;
    fill(root, h("div", { class: "page wide" },
      h("div", { class: "controls" }, h("h1", {}, "Atlas"), choose,
        form("Text", "The striker scored twice", "Which neurons respond?", this.text, (text) => this.go({ text, topic: null, layer: null })),
        form("Neuron", "mlp_act.3.57", "Show its topics", this.neuron, (neuron) => this.go({ neuron }))),
      h("div", { class: "results" }, summary, h("div", { class: "columns" }, neurons, own))));
  }

  open(address) {
    window.history.pushState(null, "", address);
    window.dispatchEvent(new PopStateEvent("popstate"));
  }

  /** Change what is shown, and the address. */
  go(changes) {
    const query = new URLSearchParams();
    const next = { topic: this.topic, layer: this.layer, neuron: this.neuron, text: this.text, ...changes };
    for (const [name, value] of Object.entries(next)) if (value != null && value !== "") query.set(name, value);
    this.open(`/atlas/${this.run}?${query}`);
  }

  async draw() {
    const found = await request("GET", `/api/atlases/${encodeURIComponent(this.run)}`);
    const layers = [...new Set(found.rows.map((row) => row.layer))];
    const count = new Map(found.rows.map((row) => [`${row.layer} ${row.topic}`, row]));
    const most = Math.max(1, ...found.rows.map((row) => row.selective));
    const heads = ["topic", "prompts", "best covariate", "AUROC", "selective", "confounded", ...layers.map((layer) => `layer ${layer}`)];
    const link = (text, changes) => h("button", { type: "button", class: "link", onclick: () => this.go({ text: null, neuron: null, ...changes }) }, text);
    const rows = found.topics.map((own) => h("tr", { class: own.topic === this.topic ? "chosen" : null },
      h("td", {}, link(own.topic, { topic: own.topic, layer: null })),
      h("td", {}, String(own.prompts)),
      h("td", { class: "text" }, own.reason ? `not separable from ${own.reason}` : NAMES[own.covariate] ?? own.covariate),
      h("td", {}, short(own.covariate_auroc)),
      h("td", {}, String(own.selective)),
      h("td", {}, String(own.confounded)),
      ...layers.map((layer) => {
        const row = count.get(`${layer} ${own.topic}`);
        return h("td", { title: `best: ${row.best_neuron}, AUROC ${short(row.best_auroc)}; ${row.confounded} confounded`,
          style: row.selective ? shade(row.selective, most) : "" }, link(String(row.selective), { topic: own.topic, layer }));
      })));
    fill(this.parts.summary,
      h("p", {}, found.headline[0].toUpperCase() + found.headline.slice(1)),
      table(heads, rows, [2]),
      h("p", { class: "soft" }, "Selective neurons per layer; confounded ones, which length, punctuation or source explain, are apart. Click a topic or a number."),
      ...found.notes.map((note) => h("p", { class: "note" }, note)));
    await Promise.all([this.drawNeurons(), this.drawCard()]);
  }

  async drawNeurons() {
    if (this.text) return this.drawFound();
    const query = new URLSearchParams({ top: 50 });
    if (this.topic) query.set("topic", this.topic);
    if (this.layer) query.set("layers", this.layer);
    const rows = await request("GET", `/api/atlases/${this.run}/neurons?${query}`);
    const where = this.layer ? ` at layer ${this.layer}` : "";
    this.table(`Neurons of ${this.topic ?? "all topics"}${where}`, rows, COLUMNS,
      (row) => [row.topic, verdict(row)], ["topic", "verdict"]);
  }

  async drawFound() {
    fill(this.parts.neurons, h("p", {}, "searching …"));
    let rows;
    try {
      rows = await request("POST", `/api/atlases/${this.run}/search`, { text: this.text, top: 30 });
    } catch (error) {
      fill(this.parts.neurons, h("p", { class: "error", role: "alert" }, ...faultText(error)));
      return;
    }
    this.table(`Neurons that respond most unusually to “${this.text}”`, rows, [["value", "value"], ["z", "z"]],
      (row) => [row.token, row.topics], ["peaks at", "selective for"]);
  }

  table(title, rows, columns, texts, heads) {
    const cells = rows.map((row) => h("tr", { class: row.neuron === this.neuron ? "chosen" : null },
      h("td", {}, h("button", { type: "button", class: "link", onclick: () => this.go({ neuron: row.neuron }) }, row.neuron)),
      ...texts(row).map((text) => h("td", { class: "text" }, text)),
      ...columns.map(([name]) => h("td", {}, row[name] == null ? "–" : row[name].toFixed(3).replace("-", "−")))));
    fill(this.parts.neurons, h("h2", {}, title), rows.length
      ? table(["neuron", ...heads, ...columns.map(([, name]) => name)], cells, [1, 2])
      : h("p", { class: "soft" }, "No neuron meets the thresholds."));
  }

  async drawCard() {
    if (!this.neuron) {
      fill(this.parts.card, h("p", { class: "soft" }, "Choose a neuron to see its card."));
      return;
    }
    try {
      const own = await request("GET", `/api/atlases/${this.run}/neurons/${encodeURIComponent(this.neuron)}`);
      fill(this.parts.card, h("h2", {}, own.name, " ", h("a", { class: "button", href: watching(own.name) }, "☆ Watch in Probe")), card(own, (neuron) => this.go({ neuron })));
    } catch (error) {
      fill(this.parts.card, h("p", { class: "error", role: "alert" }, ...faultText(error)));
    }
  }
}

function form(label, placeholder, action, value, onSubmit) {
  const input = h("input", { type: "search", value: value ?? "", placeholder, "aria-label": label });
  const submit = (event) => {
    event.preventDefault();
    onSubmit(input.value.trim());
  };
  return h("form", { onsubmit: submit }, input, " ", h("button", { type: "submit" }, action));
}
