// Elements of the page. Text is only ever set as text, so nothing that a user types becomes markup.

/** Return an element: h("p", {class: "soft"}, "text", child). Attributes that start with "on" are listeners. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") element.style.cssText = value ?? ""; // an attribute would be blocked as inline style
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

/** Replace what an element contains. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child != null));
  return element;
}

/** Return a number with three significant digits and its sign: "+1.23", "−0.04", "0". */
export function signed(value) {
  if (value == null || Number.isNaN(value)) return "–";
  const text = short(Math.abs(value));
  if (Number(text) === 0) return "0";
  return `${value < 0 ? "−" : "+"}${text}`;
}

/** Return a number that is not negative with three significant digits. */
export function short(value) {
  if (value >= 1000) return value.toFixed(0);
  return value >= 0.001 || value === 0 ? String(Number(value.toPrecision(3))) : value.toExponential(1);
}

/** Return an error with its remedy. */
export const faultText = (error) => [h("b", {}, error.message), error.remedy ? `; ${error.remedy}` : ""];

/** Show a message at the bottom of the page for some seconds. */
export function say(...content) {
  const box = document.getElementById("messages");
  const message = h("div", { class: "message", role: "status" }, ...content);
  box.append(message);
  setTimeout(() => message.remove(), 8000);
}

/**
 * Return a table that scrolls if it is too wide. A head is a text, or a text and its meaning;
 * `texts` are the indices of columns of text.
 */
export function table(heads, rows, texts = []) {
  return h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, ...heads.map((head, index) => {
      const [text, meaning] = Array.isArray(head) ? head : [head, null];
      return h("th", { scope: "col", title: meaning, class: texts.includes(index) ? "text" : null }, text);
    }))),
    h("tbody", {}, ...rows)));
}

/** Return a tooltip inside an element. */
export function tooltip(parent) {
  const box = h("div", { class: "tooltip", hidden: true });
  parent.append(box);
  return {
    show(event, text) {
      box.hidden = false;
      box.textContent = text;
      const frame = parent.getBoundingClientRect();
      const left = Math.min(event.clientX - frame.left + 14, frame.width - box.offsetWidth - 4);
      box.style.left = `${Math.max(0, left)}px`;
      box.style.top = `${event.clientY - frame.top + 16}px`;
    },
    hide() {
      box.hidden = true;
    },
  };
}
