// Sessions: probes that are kept as runs in MLflow; listed, searched, opened again and compared.

import { request } from "./api.js";
import { fill, h, signed, table } from "./dom.js";
import { similarity } from "./strongest.js";
import { address, promptName } from "./state.js";

/** Draw the list of sessions, one of them, or several side by side: /sessions/compare?run=…&run=… */
export async function sessionsView(root, state) {
  if (state.path[0] === "compare") return comparedView(root, state.query.getAll("run"));
  if (state.path[0]) return sessionView(root, state.path[0]);
  return listView(root);
}

async function listView(root) {
  const chosen = new Set();
  const list = h("div", {});
  const search = h("input", { type: "search", class: "long", "aria-label": "Search", placeholder: "prompts, model, site or note" });
  const compare = h("a", { class: "button", hidden: true }, "");
  const choose = (id, checked) => {
    if (checked) chosen.add(id);
    else chosen.delete(id);
    compare.hidden = chosen.size < 2;
    compare.textContent = `Compare ${chosen.size} sessions`;
    compare.href = `/sessions/compare?${[...chosen].map((run) => `run=${run}`).join("&")}`;
  };
  const draw = async () => {
    const wanted = search.value;
    const found = await request("GET", `/api/sessions?search=${encodeURIComponent(wanted)}`);
    if (wanted !== search.value) return; // a later answer follows
    const heads = ["", "session", "date", "model", "site", "prompts", "watched", "note", ""];
    const rows = found.map((own) => h("tr", {},
      h("td", {}, h("input", {
        type: "checkbox", "aria-label": `compare ${own.name}`, checked: chosen.has(own.run_id),
        onchange: (event) => choose(own.run_id, event.target.checked),
      })),
      h("td", { class: "text" }, h("a", { href: `/sessions/${own.run_id}` }, own.name)),
      h("td", { class: "text" }, new Date(own.started).toLocaleString()),
      ...["model", "site"].map((name) => h("td", { class: "text" }, own[name])),
      ...["prompts", "watched"].map((name) => h("td", {}, String(own[name]))),
      h("td", { class: "text" }, own.note),
      h("td", {}, own.address ? h("a", { href: own.address }, "MLflow") : "")));
    const none = search.value ? "No session matches." : "No session is saved yet: read some prompts, and save them.";
    fill(list, found.length ? table(heads, rows, [1, 2, 3, 4, 7]) : h("p", { class: "soft" }, none));
  };
  let typed = 0;
  search.addEventListener("input", () => {
    clearTimeout(typed);
    typed = setTimeout(draw, 250);
  });
  fill(root, h("div", { class: "page" }, h("h1", {}, "Sessions"), h("div", { class: "controls" }, search, compare), list));
  await draw();
}

async function sessionView(root, id) {
  const own = await request("GET", `/api/sessions/${encodeURIComponent(id)}`);
  const again = own.view || address({
    ...own, layer: null, unit: null, show: "", prompt: 0, threshold: null, watch: own.watched.map((neuron) => neuron.neuron),
  });
  const format = (kind) => h("a", { href: `/api/sessions/${id}/export?format=${kind}`, download: "" }, kind.toUpperCase());
  const names = own.prompts.map((_, index) => promptName(index));
  const number = (value) => h("td", {}, signed(value));
  fill(root, h("div", { class: "page" },
    h("h1", {}, own.note || "Session"),
    h("p", { class: "soft" }, `${own.model}${own.revision ? ` (${own.revision})` : ""}, weights ${own.fingerprint.slice(0, 12)}, ${own.site}, ${new Date(own.created).toLocaleString()}`),
    h("p", { class: "controls" }, h("a", { href: again, class: "button" }, "Read the prompts again"),
      h("span", {}, "Export: ", format("csv"), " ", format("parquet"), " ", format("json"), " ", format("png")),
      ...Object.entries(own.links).flatMap(([name, place]) => [h("a", { href: place }, name), " "])),
    h("div", { class: "results" },
      h("section", {}, h("h2", {}, "Prompts"), ...own.prompts.map((text, index) => h("p", { class: "example" }, h("b", {}, names[index]), ` ${text}`))),
      own.watched.length
        ? h("section", {}, h("h2", {}, "Watched neurons"),
            table(["neuron", ...names.map((name) => `z at ${name}`), ...names.map((name) => `activation at ${name}`)],
              own.watched.map((neuron) => h("tr", {}, h("td", {}, neuron.neuron), ...neuron.z.map(number), ...neuron.values.map(number)))))
        : null,
      similarity(own.comparison, own.prompts[0], own.prompts[1]))));
}

/** Draw the watched neurons of several sessions, with a column for each session, the oldest first. */
async function comparedView(root, ids) {
  const sessions = await Promise.all(ids.map(async (id) => ({ id, ...(await request("GET", `/api/sessions/${encodeURIComponent(id)}`)) })));
  sessions.sort((one, other) => one.created.localeCompare(other.created));
  const cells = new Map(); // neuron and prompt -> z of each session
  sessions.forEach((own, column) => own.watched.forEach((neuron) => own.prompts.forEach((prompt, index) => {
    const key = JSON.stringify([neuron.neuron, prompt]);
    if (!cells.has(key)) cells.set(key, sessions.map(() => null));
    cells.get(key)[column] = neuron.z[index];
  })));
  const heads = ["neuron", "prompt", ...sessions.map((own) =>
    h("a", { href: `/sessions/${own.id}` }, new Date(own.created).toLocaleString(), h("br"), own.model.split("/").at(-1), h("br"), own.fingerprint.slice(0, 8))), "change"];
  const rows = [...cells].map(([key, z]) => {
    const [neuron, prompt] = JSON.parse(key);
    const known = z.filter((value) => value != null);
    const change = known.length > 1 ? known.at(-1) - known[0] : null;
    return h("tr", {}, h("td", {}, neuron), h("td", { class: "text" }, prompt), ...z.map((value) => h("td", {}, signed(value))), h("td", {}, signed(change)));
  });
  const shared = [...cells.values()].some((z) => z.filter((value) => value != null).length > 1);
  fill(root, h("div", { class: "page wide" }, h("h1", {}, "Sessions over dates"),
    shared ? null : h("p", {}, "These sessions have no watched neuron and prompt in common."),
    rows.length ? table(heads, rows, [1]) : h("p", { class: "soft" }, "No neuron is watched in these sessions."),
    h("p", { class: "soft" }, "z of each watched neuron; – where a session does not have the neuron or the prompt. The change is from the first session to the last that has it.")));
}
