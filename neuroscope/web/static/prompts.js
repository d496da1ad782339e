// The form of a probe: prompts A, B, …, a template, the model and the site.

import { fill, h } from "./dom.js";
import { promptName } from "./state.js";

const SITES = [
  ["mlp_act", "MLP neurons"],
  ["resid_post", "residual stream"],
  ["mlp_out", "MLP output"],
  ["attn_out", "attention output"],
];
const EXAMPLE = ["The nurse said that he is tired.", "The nurse said that she is tired."];

/** Return the form; `onRun` gets {model, site, prompts}. */
export function promptForm(state, models, onRun) {
  let texts = state.prompts.length ? [...state.prompts] : [...EXAMPLE];
  let untouched = !state.prompts.length; // the examples are still there
  const list = h("ol", { class: "texts" });
  const template = h("input", { type: "text", name: "template", placeholder: "The {} is on the mat", "aria-label": "Template" });
  template.addEventListener("input", () => template.setCustomValidity(""));
  const truncate = h("input", { type: "checkbox", name: "truncate", checked: state.truncate });
  const model = h("input", { name: "model", list: "models", value: state.model || models[0] || "", "aria-label": "Model", required: true });
  const known = SITES.some(([name]) => name === state.site) ? SITES : [...SITES, [state.site, state.site]];
  const site = h("select", { name: "site", "aria-label": "Site" },
    ...known.map(([name, meaning]) => h("option", { value: name, selected: name === state.site }, `${name}: ${meaning}`)));

  const draw = (focus) => {
    fill(list, ...texts.map((text, index) => h("li", {},
      h("label", { for: `prompt-${index}` }, promptName(index)),
      h("textarea", {
        id: `prompt-${index}`, rows: 2, required: true,
        oninput: (event) => {
          texts[index] = event.target.value;
          untouched = false;
        },
        onpaste: (event) => pasteLines(event, index),
        onkeydown: (event) => {
          if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
        },
      }, text),
      texts.length > 1
        ? h("button", { type: "button", class: "remove", "aria-label": `remove prompt ${promptName(index)}`,
            onclick: () => { texts.splice(index, 1); draw(); } }, "×")
        : null)));
    if (focus != null) list.querySelector(`#prompt-${focus}`)?.focus();
  };
  // a list that is pasted becomes one prompt per line
  const pasteLines = (event, index) => {
    const lines = event.clipboardData.getData("text").split(/\r?\n/).filter((line) => line.trim());
    if (lines.length < 2) return;
    event.preventDefault();
    const { value, selectionStart, selectionEnd } = event.target;
    const whole = !value.trim() || selectionEnd - selectionStart === value.length;
    if (untouched) texts = []; // the examples
    texts.splice(index, whole && !untouched ? 1 : 0, ...lines);
    untouched = false;
    draw();
  };
  const form = h("form", {
    onsubmit: (event) => {
      event.preventDefault();
      const own = texts.map((text) => text.trim()).filter(Boolean);
      const parts = template.value.split("{}");
      template.setCustomValidity(template.value && parts.length !== 2 ? "Write {} once, where the prompts are put." : "");
      if (!form.reportValidity()) return;
      const filled = template.value ? own.map((text) => parts.join(text)) : own;
      onRun({ model: model.value.trim(), site: site.value, prompts: filled, truncate: truncate.checked });
    },
  },
    h("h2", {}, "Prompts"),
    list,
    h("div", { class: "buttons" },
      h("button", { type: "button", onclick: () => { texts.push(""); draw(texts.length - 1); } }, "Add a prompt"),
      h("button", { type: "submit", class: "primary" }, "Read the neurons")),
    h("p", { class: "soft" }, "Paste several lines to add several prompts. Ctrl+Enter starts."),
    h("details", {},
      h("summary", {}, "Template and limits"),
      h("p", { class: "soft" }, "Each prompt above is put in the place of {}."), template,
      h("label", { class: "soft" }, truncate, " Cut prompts that are too long for the model")),
    h("label", { class: "row" }, "Model ", model),
    h("datalist", { id: "models" }, ...models.map((name) => h("option", { value: name }))),
    h("label", { class: "row" }, "Site ", site),
  );
  draw();
  return { element: form };
}
