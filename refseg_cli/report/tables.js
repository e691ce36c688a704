// Elements, numbers and tables. Everything from the data becomes text nodes and attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

const whole = new Intl.NumberFormat("en-US");
const percent = (fraction) => `${(100 * fraction).toFixed(1)} %`;
const count = (n, noun) => `${whole.format(n)} ${noun}${n === 1 ? "" : "s"}`;

function figure(value) {
  if (value === null) return ["–"];
  if (typeof value === "number") return [Number.isInteger(value) ? whole.format(value) : value.toFixed(2)];
  if (!Array.isArray(value)) return [value];
  const [middle, low, high] = value;
  if (middle === null) return ["–"];
  const interval = low === null || high === null ? null : el("span", { class: "interval", title: "95 % interval" }, `${low.toFixed(1)}–${high.toFixed(1)}`);
  return [middle.toFixed(2), interval];
}

// A point and its interval on a line from 0 to 100.
function plot(value) {
  const [middle, low, high] = Array.isArray(value) ? value : [value, null, null];
  const drawing = svg("svg", { class: "plot", viewBox: "0 0 120 14", "aria-hidden": "true" }, svg("line", { class: "track", x1: 10, x2: 110, y1: 7, y2: 7 }));
  if (middle === null) return drawing;
  if (low !== null && high !== null) drawing.append(svg("line", { class: "whisker", x1: 10 + low, x2: 10 + high, y1: 7, y2: 7 }));
  drawing.append(svg("circle", { cx: 10 + middle, cy: 7, r: 3.5 }));
  return drawing;
}

// `browse` is called with a slice's position when its name is chosen.
function table({ title, note, columns, rows, groups = [], slices = [], plotted = null }, browse) {
  const head = columns.map((name) => el("th", { scope: "col" }, name));
  if (plotted !== null) head.splice(plotted + 1, 0, el("th", { scope: "col" }, el("span", { "aria-hidden": "true" }, "0 – 100")));
  const body = rows.flatMap((row, n) => {
    const heading = groups[n] && groups[n] !== groups[n - 1] ? [el("tr", { class: "group" }, el("th", { scope: "colgroup", colspan: head.length }, groups[n]))] : [];
    const slice = slices[n] ?? null;
    const cells = row.map((value, column) => {
      if (column > 0) return el("td", { class: typeof value === "string" ? "words" : null }, ...figure(value));
      const name = slice === null ? value : el("button", { class: "link", title: "Show these samples", onclick: () => browse(slice) }, value);
      return el("th", { scope: "row" }, name);
    });
    if (plotted !== null) cells.splice(plotted + 1, 0, el("td", {}, plot(row[plotted])));
    return [...heading, el("tr", {}, ...cells)];
  });
  return el("div", { class: rows.length > 30 ? "table long" : "table", tabindex: rows.length > 30 ? 0 : null },
    el("table", {}, el("caption", {}, title), el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...body)),
    note ? el("p", { class: "note" }, note) : null);
}
