// Elements from tags, attributes and text. Text stays text: nothing here reads markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element; `on` holds listeners, null attributes are left out, children are nodes or text. */
export function el(tag, { on = {}, ...attributes } = {}, ...children) {
  return filled(document.createElement(tag), attributes, on, children);
}

export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, {}, children);
}

function filled(node, attributes, listeners, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  for (const [name, listener] of Object.entries(listeners)) node.addEventListener(name, listener);
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** What an item is called. */
export const named = ({ item, title }) => title || `${item}`;

/** Say something to those who listen to the page. */
export function announce(text) {
  byId("status").textContent = text;
}

export const whole = new Intl.NumberFormat("en");
const PERCENT = new Intl.NumberFormat("en", { style: "percent", maximumSignificantDigits: 2 });
export const percent = (share) => PERCENT.format(share).replace("-", "−");

/** A table: the first cell of each row is its heading. */
export function table(caption, columns, rows) {
  return el("div", { class: "wide", role: "region", tabindex: 0, "aria-label": caption },
    el("table", {},
      el("caption", {}, caption),
      el("thead", {}, el("tr", {}, ...columns.map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, ...rows.map(([first, ...rest]) =>
        el("tr", {}, el("th", { scope: "row" }, first),
          ...rest.map((cell) => el("td", {}, cell)))))));
}
