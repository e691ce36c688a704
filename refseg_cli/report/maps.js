// What the model looked at: maps over the picture, weights over words, single weights.

const HEAT = [[12, 8, 38], [74, 12, 107], [150, 38, 103], [215, 72, 66], [250, 142, 10], [252, 222, 90]]; // dark to light
const HEAT_OPACITY = 165; // of 255

function heat(level) {
  const at = (level / 255) * (HEAT.length - 1);
  const low = Math.min(HEAT.length - 2, Math.floor(at));
  return [0, 1, 2].map((i) => Math.round(HEAT[low][i] + (HEAT[low + 1][i] - HEAT[low][i]) * (at - low)));
}
const HEAT_TABLE = Array.from({ length: 256 }, (_, level) => heat(level));

function bytesOf(map) {
  return Uint8Array.from(atob(map.bytes), (character) => character.charCodeAt(0));
}

function mapPanel(map, picture) {
  const bytes = bytesOf(map);
  const shown = map.rows.length < map.of ? `${map.rows.length} of ${map.of} with the highest peaks, ` : "";
  const head = el("h3", {}, map.name.replaceAll("_", " "), el("span", {}, ` ${shown}${map.low.toPrecision(2)} to ${map.high.toPrecision(2)} `), scale());
  if (map.kind === "words") return el("div", {}, head, el("div", { class: "table" }, wordTable(map, bytes)));
  if (map.kind === "weights") return el("div", {}, head, el("div", { class: "table" }, weightTable(map, bytes)));
  const tiles = map.rows.map((row, n) => tile(map, bytes, n, picture, map.words[n] ?? (map.of > 1 ? `${row + 1}` : "")));
  return el("div", {}, head, el("div", { class: "tiles" }, ...tiles));
}

function scale() {
  const canvas = el("canvas", { width: 256, height: 1 });
  const context = canvas.getContext("2d");
  const image = context.createImageData(256, 1);
  HEAT_TABLE.forEach((color, level) => image.data.set([...color, 255], 4 * level));
  context.putImageData(image, 0, 0);
  return el("span", { class: "scale", "aria-hidden": "true" }, canvas);
}

function tile(map, bytes, n, picture, caption) {
  const [, h, w] = map.shape;
  const canvas = el("canvas", { width: w, height: h });
  const context = canvas.getContext("2d");
  const image = context.createImageData(w, h);
  for (let p = 0; p < w * h; p++) image.data.set([...HEAT_TABLE[bytes[n * w * h + p]], HEAT_OPACITY], 4 * p);
  context.putImageData(image, 0, 0);
  const pane = el("div", { class: "pane" }, el("img", { src: picture.src, alt: "", loading: "lazy" }), canvas);
  pane.style.aspectRatio = `${picture.width} / ${picture.height}`;
  return el("figure", { class: "tile" }, pane, caption ? el("figcaption", {}, caption) : null);
}

function cell(level, value) {
  const color = HEAT_TABLE[level];
  const td = el("td", {}, value.toFixed(2));
  td.style.background = `rgb(${color})`;
  td.style.color = level > 165 ? "#111" : "#fff";
  return td;
}

const valueOf = (map, level) => map.low + ((map.high - map.low) * level) / 255;

function wordTable(map, bytes) {
  const [q, t] = map.shape;
  const rows = Array.from({ length: q }, (_, row) => {
    const cells = Array.from({ length: t }, (_, word) => bytes[row * t + word]);
    return el("tr", {}, el("th", { scope: "row" }, map.of > 1 ? `${map.rows[row] + 1}` : ""), ...cells.map((level) => cell(level, valueOf(map, level))));
  });
  const head = el("tr", {}, el("th", {}), ...map.words.map((word) => el("th", { scope: "col" }, word)));
  return el("table", { class: "weights" }, el("thead", {}, head), el("tbody", {}, ...rows));
}

function weightTable(map, bytes) {
  const head = el("tr", {}, ...map.rows.map((row) => el("th", { scope: "col" }, `${row + 1}`)));
  const cells = map.rows.map((_, n) => cell(bytes[n], valueOf(map, bytes[n])));
  return el("table", { class: "weights" }, el("thead", {}, head), el("tbody", {}, el("tr", {}, ...cells)));
}
