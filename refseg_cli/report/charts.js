// Line charts over axes from 0 to 1, in percent.

const BOX = { left: 34, right: 332, top: 8, bottom: 218, width: 340, height: 252 };
const across = (x) => BOX.left + x * (BOX.right - BOX.left);
const upward = (y) => BOX.bottom - y * (BOX.bottom - BOX.top);
const TICKS = [0, 0.2, 0.4, 0.6, 0.8, 1];

function chart({ title, note, x, y, lines, marks, diagonal }) {
  const drawing = svg("svg", { viewBox: `0 0 ${BOX.width} ${BOX.height}`, role: "img", "aria-label": `${title}: ${y} against ${x}` }, ...axes(x, y));
  if (diagonal) drawing.append(svg("line", { class: "diagonal", x1: across(0), y1: upward(0), x2: across(1), y2: upward(1) }));
  lines.forEach((line, n) => {
    const points = line.points.filter(([px, py]) => px !== null && py !== null).map(([px, py]) => `${across(px).toFixed(1)},${upward(py).toFixed(1)}`);
    drawing.append(svg("polyline", { class: `line series-${n % 4}`, points: points.join(" ") }));
  });
  for (const mark of marks) drawing.append(pin(mark));
  const readout = el("div", { class: "readout", "aria-hidden": "true" });
  follow(drawing, lines, readout);
  const keys = lines.length > 1 ? lines.map((line, n) => el("span", { class: "key" }, svg("svg", { viewBox: "0 0 18 4" }, svg("line", { class: `series-${n % 4}`, x1: 0, x2: 18, y1: 2, y2: 2 })), line.name)) : [];
  return el("figure", { class: "chart" }, el("h3", {}, title), drawing,
    el("figcaption", {}, el("div", {}, ...keys), readout, note ? el("p", { class: "note" }, note) : null, numbers(x, lines)));
}

function axes(x, y) {
  const parts = TICKS.flatMap((tick) => [
    svg("line", { class: "grid-line", x1: across(0), x2: across(1), y1: upward(tick), y2: upward(tick) }),
    svg("text", { x: BOX.left - 5, y: upward(tick) + 4, "text-anchor": "end" }, `${100 * tick}`),
    svg("text", { x: across(tick), y: BOX.bottom + 14, "text-anchor": "middle" }, `${100 * tick}`),
  ]);
  const middle = (BOX.top + BOX.bottom) / 2;
  return [...parts,
    svg("text", { x: across(0.5), y: BOX.height - 6, "text-anchor": "middle" }, x),
    svg("text", { x: 9, y: middle, "text-anchor": "middle", transform: `rotate(-90 9 ${middle})` }, y)];
}

function pin({ name, x, y }) {
  const right = x > 0.6;
  return svg("g", {}, svg("circle", { class: "mark pointer", cx: across(x), cy: upward(y), r: 4.5 }),
    svg("text", { x: across(x) + (right ? -8 : 8), y: upward(y) + (y > 0.9 ? 16 : -7), "text-anchor": right ? "end" : "start" }, name));
}

// The point nearest to the mouse, in words below the chart.
function follow(drawing, lines, readout) {
  const dot = svg("circle", { class: "pointer", r: 3, visibility: "hidden" });
  drawing.append(dot);
  drawing.addEventListener("pointermove", (event) => {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(drawing.getScreenCTM().inverse());
    let nearest = null, least = Infinity;
    for (const line of lines) {
      line.points.forEach(([x, y], n) => {
        if (x === null || y === null) return;
        const far = Math.hypot(across(x) - place.x, upward(y) - place.y);
        if (far < least) [nearest, least] = [{ line, n, x, y }, far];
      });
    }
    if (!nearest) return;
    fill(dot, { cx: across(nearest.x), cy: upward(nearest.y), visibility: "visible" }, []);
    const label = nearest.line.labels[nearest.n];
    readout.textContent = `${nearest.line.name}: ${percent(nearest.x)}, ${percent(nearest.y)}${label ? ` (${label})` : ""}`;
  });
  drawing.addEventListener("pointerleave", () => {
    dot.setAttribute("visibility", "hidden");
    readout.textContent = "";
  });
}

function numbers(x, lines) {
  const rows = lines.flatMap((line) => line.points.map(([px, py], n) => [line.name, line.labels[n] ?? "", [px, null, null], [py, null, null]]));
  const hundred = ([value]) => (value === null ? null : [100 * value, null, null]);
  const content = { title: "", columns: ["", "at", x, ""], rows: rows.map(([name, at, px, py]) => [name, at, hundred(px), hundred(py)]) };
  const details = el("details", {}, el("summary", {}, "Numbers"));
  details.addEventListener("toggle", () => details.childElementCount < 2 && details.append(el("div", { class: "scroll" }, table(content))));
  return details;
}
