// The panel of one neuron: its values per prompt and token.

import { request } from "./api.js";
import { card } from "./card.js";
import { shade } from "./color.js";
import { faultText, fill, h, short, signed, table } from "./dom.js";
import { promptName } from "./state.js";

/** Draw a neuron of a probe. */
export async function neuronPanel(root, view, name, row) {
  const { found, state } = view;
  const [, prompts, neurons] = found.z.shape;
  const at = (values, prompt) => values.data[(row * prompts + prompt) * neurons + state.unit];
  const heat = h("div", { class: "heat" });
  const atlas = h("div", {});
  fill(root,
    h("h2", {}, name, " ", view.watchButton(name)),
    table(["prompt", "activation", "z"], found.prompts.map((prompt, index) => h("tr", {},
      h("td", { class: "text" }, h("b", {}, promptName(index)), h("span", { title: prompt.text }, ` ${clipped(prompt.text)}`)),
      h("td", {}, signed(at(found.means, index))),
      h("td", {}, signed(at(found.z, index)))))),
    h("h3", {}, "Token by token"),
    heat,
    silencing(view, name),
    atlas,
  );
  showAtlas(atlas, view, name);
  let answer;
  try {
    answer = await request("GET", `/api/probe/${found.id}/tokens?neuron=${encodeURIComponent(name)}`);
  } catch (error) {
    fill(heat, h("p", { class: "error", role: "alert" }, ...faultText(error)));
    return;
  }
  if (!heat.isConnected) return; // another neuron was chosen meanwhile
  const own = answer.values.flatMap((values, index) => values.filter((_, token) => !found.prompts[index].tokens[token].special));
  const limit = Math.max(1e-9, ...own.map(Math.abs));
  fill(heat,
    ...answer.values.map((values, index) => h("p", {},
      h("b", {}, `${promptName(index)} `),
      ...found.prompts[index].tokens.map(({ text, special }, token) => {
        const value = values[token];
        return h("span", {
          class: special ? "token special" : "token", tabindex: 0, title: `${text}: ${signed(value)}`,
          style: special ? null : shade(value, limit),
        }, readable(text), h("small", {}, signed(value)));
      }))),
    h("p", { class: "soft" }, `From −${short(limit)} (blue) to +${short(limit)} (orange); tokens that frame the prompt are not coloured.`),
  );
}

const LONGEST = 120; // characters of a prompt in the table

const clipped = (text) => (text.length > LONGEST ? `${text.slice(0, LONGEST)} …` : text);

/** Return a token without the marks of its tokenizer. */
function readable(text) {
  return text.replace(/^(Ġ|▁)/, "").replace(/^##/, "·").replaceAll("Ċ", "↵") || "␣";
}

/** Return the button that silences a neuron, and where its effect is shown. */
function silencing(view, name) {
  const { found } = view;
  const effect = h("p", { "aria-live": "polite" });
  const silence = async () => {
    fill(effect, "silencing …");
    try {
      const answer = await request("POST", `/api/probe/${found.id}/silence`, { neurons: [name] });
      const changes = answer.changes.map((change, index) => `${promptName(index)} ${signed(change)}`);
      fill(effect, `Change of the ${answer.measure}: ${changes.join(", ")} (${answer.unit}).`);
    } catch (error) {
      fill(effect, ...faultText(error));
    }
  };
  return h("div", {}, h("h3", {}, "Is it used?"),
    h("button", { type: "button", onclick: silence }, "Silence it"),
    h("span", { class: "soft" }, " replaces it by its usual mean and reads the prompts again"), effect);
}

/** Show what the newest atlas of the model holds on a neuron, if there is one. */
async function showAtlas(root, view, name) {
  const recorded = await request("GET", "/api/atlases").catch(() => []);
  const ofModel = recorded.filter((atlas) => atlas.fingerprint === view.found.fingerprint);
  for (const own of ofModel) { // the newest first; it may be of another site
    const found = await request("GET", `/api/atlases/${own.run_id}/neurons/${encodeURIComponent(name)}`).catch(() => null);
    if (!root.isConnected) return;
    if (!found) continue;
    const near = (other) => {
      const [, layer, unit] = other.split(".");
      view.choose(Number(layer), Number(unit));
    };
    fill(root, h("h3", {}, "In the atlas ", h("a", { href: `/atlas/${own.run_id}?neuron=${encodeURIComponent(name)}` }, own.name)), card(found, near));
    return;
  }
}
