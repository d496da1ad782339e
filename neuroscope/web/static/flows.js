// Flows: studies that are started on the Prefect server, and how far they are.

import { request } from "./api.js";
import { faultText, fill, h, say } from "./dom.js";

const POLL = 2000; // milliseconds

/** Draw the flows that can be started, or the run of one: /flows/ID */
export async function flowsView(root, state) {
  if (state.path[0]) return runView(root, state.path[0]);
  const flows = await request("GET", "/api/flows");
  fill(root, h("div", { class: "page" }, h("h1", {}, "Start a study"), flows.length
    ? h("div", { class: "results" }, ...flows.map(flowForm))
    : h("p", { class: "soft" }, "No Prefect server is configured: run ", h("code", {}, "neuroscope up"),
        ", set PREFECT_API_URL as it says, and start the interface again.")));
}

/** Return the form of a flow: a field per parameter, made from its schema. */
function flowForm(flow) {
  const { properties = {}, required = [], definitions = {} } = flow.parameters;
  const fields = Object.entries(properties)
    .sort(([, one], [, other]) => (one.position ?? 0) - (other.position ?? 0))
    .map(([name, schema]) => field(name, schema, required.includes(name), definitions));
  const fault = h("p", { class: "error", role: "alert" });
  const needed = fields.filter((own) => own.required);
  const others = fields.filter((own) => !own.required);
  return h("section", {},
    h("h2", {}, flow.name),
    h("p", {}, flow.description),
    h("form", {
      onsubmit: async (event) => {
        event.preventDefault();
        fill(fault);
        try {
          const parameters = {};
          for (const own of fields) {
            const value = own.value();
            if (value !== undefined) parameters[own.name] = value;
          }
          const run = await request("POST", `/api/flows/${encodeURIComponent(flow.name)}`, { parameters });
          window.history.pushState(null, "", `/flows/${run.id}`);
          window.dispatchEvent(new PopStateEvent("popstate"));
        } catch (error) {
          fill(fault, ...faultText(error));
        }
      },
    },
      ...needed.map((own) => own.element),
      h("details", {}, h("summary", {}, "Options"), ...others.map((own) => own.element)),
      fault,
      h("button", { type: "submit", class: "primary" }, `Start ${flow.name}`), " ",
      h("a", { href: flow.page }, "Prefect's form")));
}

/** Return a field: its element, and a function that returns its value, undefined for the default. */
function field(name, schema, required, definitions) {
  const own = resolved(schema, definitions);
  const options = own.enum ?? own.anyOf?.flatMap((part) => resolved(part, definitions).enum ?? []);
  const meaning = (schema.description ?? "").split("\n")[0];
  let input;
  let value;
  if (options?.length) {
    input = h("select", {}, h("option", { value: "" }, schema.default == null ? "" : `${schema.default} (default)`),
      ...options.map((option) => h("option", { value: option }, String(option))));
    value = () => input.value || undefined;
  } else if (own.type === "boolean") {
    input = h("input", { type: "checkbox", checked: schema.default === true });
    value = () => (input.checked === (schema.default === true) ? undefined : input.checked);
  } else if (own.type === "integer" || own.type === "number") {
    input = h("input", { type: "number", step: own.type === "integer" ? 1 : "any", placeholder: schema.default ?? "" });
    value = () => (input.value === "" ? undefined : Number(input.value));
  } else if (own.type === "string" || own.anyOf?.some((part) => resolved(part, definitions).type === "string")) {
    input = h("input", { type: "text", placeholder: typeof schema.default === "string" ? schema.default : "" });
    value = () => input.value || undefined;
  } else if (own.type === "array") {
    input = h("textarea", { rows: 3, placeholder: [schema.default ?? "one per line"].flat().join("\n") });
    value = () => lines(input.value);
  } else if (own.properties) {
    return group(name, own, required, definitions);
  } else {
    input = h("textarea", { rows: 2, placeholder: schema.default == null ? "JSON" : JSON.stringify(schema.default) });
    value = () => {
      if (!input.value.trim()) return undefined;
      try {
        return JSON.parse(input.value);
      } catch {
        throw new Error(`${name}: this is not JSON`);
      }
    };
  }
  if (required) input.setAttribute("required", "");
  return { name, required, value, element: h("label", { class: "row wide-label", title: meaning }, schema.title ?? name, input) };
}

function lines(text) {
  const own = text.split("\n").map((line) => line.trim()).filter(Boolean);
  return own.length ? own : undefined;
}

/** Return the fields of a parameter that is an object, as one field. */
function group(name, schema, required, definitions) {
  const fields = Object.entries(schema.properties)
    .map(([key, own]) => field(key, own, required && (schema.required ?? []).includes(key), definitions));
  const value = () => {
    const own = fields.map((part) => [part.name, part.value()]).filter(([, given]) => given !== undefined);
    return own.length ? Object.fromEntries(own) : undefined;
  };
  return { name, required, value, element: h("fieldset", {}, h("legend", {}, schema.title ?? name), ...fields.map((part) => part.element)) };
}

function resolved(schema, definitions) {
  const name = (schema.$ref ?? schema.allOf?.[0]?.$ref ?? "").split("/").pop();
  return name ? { ...definitions[name], ...schema } : schema;
}

/** Draw how far a flow run is, until it ends. */
async function runView(root, id) {
  const box = h("div", { class: "page", "aria-live": "polite" });
  fill(root, box);
  for (;;) {
    let run;
    try {
      run = await request("GET", `/api/flow-runs/${encodeURIComponent(id)}`);
    } catch (error) {
      if (error.status && error.status !== 424) throw error;
      say(...faultText(error)); // the server may answer again
      await new Promise((resolve) => setTimeout(resolve, 5 * POLL));
      continue;
    } finally {
      if (!box.isConnected) return;
    }
    fill(box,
      h("h1", {}, run.name),
      h("p", {}, h("b", {}, run.state), run.message && ` ${run.message}`),
      run.final ? null : h("progress", { max: run.total || 1, value: run.total ? run.done : null }),
      h("p", { class: "soft" }, `${run.done} of ${run.total} steps`),
      h("p", {}, h("a", { href: run.page }, "Page in Prefect"), " ",
        ...run.runs.flatMap((own) => [own.address ? h("a", { href: own.address }, `${own.name} in MLflow`) : `recorded: ${own.name}`, " "])),
      run.final ? null : h("button", {
        type: "button",
        onclick: () => request("DELETE", `/api/flow-runs/${encodeURIComponent(id)}`).catch((error) => say(...faultText(error))),
      }, "Cancel"));
    if (run.final) return;
    await new Promise((resolve) => setTimeout(resolve, POLL));
  }
}
