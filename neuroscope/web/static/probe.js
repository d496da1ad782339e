// The probe: prompts in, layers x neurons out.

import { values, work } from "./api.js";
import { clipping } from "./color.js";
import { faultText, fill, h, say, short } from "./dom.js";
import { picture } from "./export.js";
import { layerGrid } from "./layer.js";
import { neuronPanel } from "./neuron.js";
import { overview } from "./overview.js";
import { promptForm } from "./prompts.js";
import { comparison, markChosen, strongestTable } from "./strongest.js";
import { address, promptName, readState, writeState } from "./state.js";
import { saves, saveForm, saveSession } from "./watched.js";

const STEPS = [
  "Type prompts, or paste a list: two that differ in a word show what the word changes.",
  "Press “Read the neurons”. Every layer appears as a row, and the strongest neurons as a table.",
  "Click a layer, then a neuron: its value at every token, what an atlas knows of it, and what changes without it.",
];

/** The view: keeps what was read, and draws it anew when the state changes. */
export class ProbeView {
  constructor(root, state, models) {
    this.root = root;
    this.state = state;
    this.found = null; // the answer of the server, with `means` and `z`
    this.note = ""; // typed, and not yet saved
    this.cursor = null;
    this.selection = new Set();
    this.parts = this.build(models);
    if (state.prompts.length) this.run();
  }

  build(models) {
    const parts = {
      status: h("div", { class: "status", "aria-live": "polite" }),
      save: h("div", {}),
      results: h("div", { class: "results" }, introduction()),
    };
    parts.form = promptForm(this.state, models, (changes) => this.run(changes));
    const aside = h("aside", { class: "prompts", "aria-label": "Prompts" }, parts.form.element, parts.save);
    fill(this.root, h("div", { class: "probe" }, aside, h("div", { class: "results" }, parts.status, parts.results)));
    return parts;
  }

  /** End what is in progress; another view follows. */
  close() {
    this.abort?.abort();
  }

  /** Draw again, for another theme or width. */
  redraw() {
    if (this.found) this.draw({ replace: true });
  }

  /** Show another state of what was read, and return true; false if that has to be read first. */
  take(location) {
    const next = readState(location);
    const same = (name) => JSON.stringify(next[name]) === JSON.stringify(this.state[name]);
    if (!this.found || next.view !== "probe" || !["model", "site", "prompts", "truncate"].every(same)) return false;
    this.state = next;
    this.selection.clear();
    this.settle();
    this.draw({ replace: true });
    return true;
  }

  /** Read the prompts of the state, or those that were typed; the state changes once they are read. */
  async run(typed = null) {
    this.abort?.abort();
    const abort = (this.abort = new AbortController());
    const { model, site, prompts, truncate = false } = typed ?? this.state;
    this.progress({ stage: "waiting", done: 0, total: 1 });
    try {
      const body = { model, site, prompts, truncate, top: 1 };
      const answer = await work("/api/probe", body, (at) => this.progress(at), abort.signal);
      const [means, z] = await Promise.all(
        ["values", "z"].map((part) => values(`/api/probe/${answer.id}/${part}`, abort.signal)),
      );
      if (!this.root.isConnected) return;
      this.found = { ...answer, means, z };
      Object.assign(this.state, { model: answer.model, site, prompts, truncate }, typed && { threshold: null });
      this.ready(typed);
    } catch (error) {
      if (this.abort !== abort) return; // another reading has begun
      if (error.name === "AbortError") fill(this.parts.status, "Cancelled.");
      else this.fail(error);
    }
  }

  progress({ stage, done, total }) {
    const count = total > 1 ? ` ${done} of ${total}` : "";
    fill(
      this.parts.status,
      h("progress", { max: total, value: done || null, "aria-label": stage }),
      h("span", {}, `${stage}${count} …`),
      h("button", { type: "button", onclick: () => this.abort.abort() }, "Cancel"),
    );
  }

  fail(error) {
    fill(this.parts.status, h("div", { class: "error", role: "alert" }, ...faultText(error)));
  }

  ready(typed) {
    this.settle();
    fill(this.parts.status, ...this.found.notes.map((note) => h("p", { class: "note" }, note)));
    this.draw({ replace: !typed });
    if (typed && saves()) saveSession(this);
  }

  /** Leave out of the state what the answer does not have. */
  settle() {
    const { state, found } = this;
    if (!found.layers.includes(state.layer)) state.layer = null;
    if (state.layer == null || state.unit >= found.neurons) state.unit = null;
    if (!state.show) state.show = found.prompts.length > 1 ? "difference" : "z";
    if (found.prompts.length < 2 && state.show === "difference") state.show = "z";
    if (!found.prompts[state.prompt]) state.prompt = 0;
    this.cursor = state.unit;
  }

  /** Return what is shown of a layer, one value per neuron. */
  shown(row) {
    const { found, state } = this;
    const source = state.show === "value" ? found.means : found.z;
    if (state.show !== "difference") return layerOf(source, row, state.prompt);
    const [a, b] = [layerOf(source, row, 0), layerOf(source, row, Math.max(1, state.prompt))];
    return a.map((value, unit) => value - b[unit]);
  }

  /** Return the z of a neuron at each prompt. */
  zOf(row, unit) {
    return this.found.prompts.map((_, prompt) => layerOf(this.found.z, row, prompt)[unit]);
  }

  get meaning() {
    const { state } = this;
    if (state.show === "difference") return `z of A − z of ${promptName(Math.max(1, state.prompt))}`;
    const name = promptName(state.prompt);
    return state.show === "z" ? `z of ${name}` : `activation at ${name}`;
  }

  /** Return the row of the chosen layer; -1 if none is. */
  get row() {
    return this.found.layers.indexOf(this.state.layer);
  }

  nameOf(row, unit) {
    return `${this.found.site}.${this.found.layers[row]}.${unit}`;
  }

  /** Draw everything, and put the state into the address. */
  draw({ replace = false } = {}) {
    const { found, state, parts } = this;
    this.layers = found.layers.map((_, row) => this.shown(row));
    const everything = new Float32Array(found.layers.length * found.neurons);
    this.layers.forEach((own, row) => everything.set(own, row * found.neurons));
    this.limit = clipping(everything);
    this.largest = everything.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    if (state.threshold == null) state.threshold = rounded(Math.min(clipping(everything, 0.99), this.largest));
    const part = (name, label) => (parts[name] = h("section", { class: name, "aria-label": label }));
    fill(
      parts.results,
      this.controls(),
      part("overview", "All layers"),
      h("div", { class: "columns" },
        h("div", { class: "results" }, part("layer", "Layer"), part("strongest", "Strongest neurons")),
        h("div", { class: "results" }, part("neuron", "Neuron"), comparison(found, state.prompt)),
      ),
    );
    overview(this);
    this.drawLayer();
    writeState(state, { replace });
  }

  /** Change what is shown; the control with the name keeps the focus. */
  change(changes, control) {
    Object.assign(this.state, changes);
    this.draw();
    this.parts.results.querySelector(`[name=${control}]`)?.focus();
  }

  controls() {
    const { state, found } = this;
    const choice = (name, key, options, value, onchange) =>
      h("label", {}, `${name} `,
        h("select", { name: key, onchange: (event) => onchange(event.target.value) },
          ...options.map(([key, text]) => h("option", { value: key, selected: key === String(value) }, text)),
        ));
    const several = found.prompts.length > 1;
    const kinds = [["z", "z against usual text"], ["value", "activation"]];
    if (several) kinds.unshift(["difference", "difference from A"]);
    const names = found.prompts.map((_, index) => [String(index), promptName(index)]);
    const of = state.show === "difference" ? names.slice(1) : names;
    const prompt = state.show === "difference" ? Math.max(1, state.prompt) : state.prompt;
    const again = { threshold: null };
    return h("div", { class: "controls" },
      choice("Show", "show", kinds, state.show, (show) => this.change({ show, ...again }, "show")),
      several && of.length > 1
        ? choice("of prompt", "of", of, prompt, (value) => this.change({ prompt: Number(value), ...again }, "of"))
        : null,
      h("label", { class: "threshold" }, "Threshold ",
        h("input", {
          type: "range", min: 0, max: this.largest, step: this.largest / 200 || 1, value: state.threshold,
          oninput: (event) => {
            state.threshold = rounded(Number(event.target.value));
            overview(this);
            writeState(state, { replace: true });
          },
        }),
        h("output", {}, short(state.threshold))),
      h("span", { class: "space" }),
      h("button", { type: "button", onclick: () => this.copyLink() }, "Copy link"),
      h("button", { type: "button", onclick: () => picture(this) }, "Picture"),
    );
  }

  async copyLink() {
    const link = window.location.origin + address(this.state);
    try {
      await navigator.clipboard.writeText(link);
      say("The link is copied.");
    } catch {
      say("The browser does not allow copying; copy this link: ", h("code", {}, link));
    }
  }

  /** Choose a layer, and a neuron of it. */
  choose(layer, unit) {
    const same = layer === this.state.layer && unit != null;
    const focused = document.activeElement?.dataset?.neuron;
    if (!same) this.selection.clear();
    Object.assign(this.state, { layer, unit });
    this.cursor = unit;
    if (same) {
      this.grid.paint();
      markChosen(this);
      this.drawNeuron();
    } else {
      overview(this);
      this.drawLayer();
    }
    if (focused) this.root.querySelector(`.link[data-neuron="${focused}"]`)?.focus();
    writeState(this.state);
  }

  /** Draw the grid of the chosen layer, its table and the chosen neuron. */
  drawLayer() {
    layerGrid(this);
    strongestTable(this);
    this.drawWatched();
    this.drawNeuron();
  }

  drawNeuron() {
    const { state, parts } = this;
    if (state.unit == null) {
      fill(parts.neuron, h("p", { class: "soft" }, "Choose a neuron, in the grid or the table, to see its values token by token."));
    } else neuronPanel(parts.neuron, this, this.nameOf(this.row, state.unit), this.row);
  }

  drawWatched() {
    fill(this.parts.save, saveForm(this));
  }

  watchButton(name) {
    const watched = this.state.watch.includes(name);
    return h("button", {
      type: "button", class: "watch", "data-neuron": name, "aria-pressed": String(watched),
      "aria-label": `watch ${name}`, onclick: () => this.watch([name]),
    }, watched ? "★" : "☆");
  }

  /** Watch no neuron. */
  unwatch() {
    this.state.watch = [];
    this.watch([]);
  }

  /** Watch neurons, or stop watching a single one that is watched. */
  watch(names) {
    const { state } = this;
    const only = names.length === 1 && state.watch.includes(names[0]);
    state.watch = only
      ? state.watch.filter((name) => name !== names[0])
      : [...new Set([...state.watch, ...names])];
    for (const button of this.parts.results.querySelectorAll("button.watch")) {
      const watched = state.watch.includes(button.dataset.neuron);
      button.setAttribute("aria-pressed", String(watched));
      button.textContent = watched ? "★" : "☆";
    }
    this.drawWatched();
    writeState(state, { replace: true });
  }
}

/** Return the values of a layer at a prompt, one per neuron. */
function layerOf({ data, shape: [, prompts, neurons] }, row, prompt) {
  const start = (row * prompts + prompt) * neurons;
  return data.subarray(start, start + neurons);
}

/** Return a threshold with three significant digits, rounded down. */
function rounded(value) {
  const step = 10 ** (Math.floor(Math.log10(value || 1)) - 2);
  return Number((Math.floor(value / step + 1e-9) * step).toPrecision(3));
}

function introduction() {
  return h("section", { class: "introduction" },
    h("h1", {}, "What do the neurons do?"),
    h("ol", {}, ...STEPS.map((step) => h("li", {}, step))));
}
