// Puts the parts together; the address's fragment remembers filters and the open sample.

function complain(error) {
  console.error(error);
}

function remember() {
  const words = new URLSearchParams();
  if (state.text) words.set("text", state.text);
  if (state.split !== null) words.set("split", data.splits[state.split]);
  if (state.slice !== null) words.set("slice", data.slices[state.slice].join(": "));
  if (state.failure !== null) words.set("type", FAILURE_NAMES[state.failure]);
  if (state.order !== "worst") words.set("order", state.order);
  if (position !== null) words.set("sample", chosen[position].index);
  const fragment = words.toString();
  if (fragment || location.hash.includes("=")) history.replaceState(null, "", fragment ? `#${fragment}` : "#samples");
}

function recall() {
  const words = new URLSearchParams(location.hash.slice(1));
  const at = (list, key) => (list.indexOf(words.get(key)) < 0 ? null : list.indexOf(words.get(key)));
  Object.assign(state, {
    text: words.get("text") ?? "",
    split: at(data.splits, "split"),
    slice: at(data.slices.map((slice) => slice.join(": ")), "slice"),
    failure: at(FAILURE_NAMES, "type"),
    order: words.get("order") in ORDERS ? words.get("order") : "worst",
  });
  return words.get("sample") === null ? null : samples[words.get("sample")] ?? null;
}

function showPart(name) {
  const part = data.parts[name];
  for (const button of $("split-switch").children) button.setAttribute("aria-pressed", `${button.textContent === name}`);
  $("charts").replaceChildren(...part.charts.map(chart));
  $("slice-tables").replaceChildren(...part.tables.map((content) => table(content, (slice) => choose({ slice, split: data.splits.length > 1 ? data.splits.indexOf(name) : null }))));
}

$("title").textContent = data.title;
$("facts").append(...Object.entries(data.facts).map(([name, text]) => el("div", {}, el("dt", {}, name), el("dd", {}, text))));
$("cautions").append(...data.cautions.map((caution) => el("li", {}, caution)));
$("tables").append(...data.tables.map((content) => table(content)));
const parts = Object.keys(data.parts);
if (parts.length > 1) $("split-switch").append(...parts.map((name) => el("button", { "aria-pressed": "false", onclick: () => showPart(name) }, name)));
if (parts.length) showPart(parts[0]);
$("detail").hidden = parts.every((name) => !data.parts[name].charts.length && !data.parts[name].tables.length);
setUpFilters();
setUpSample();
const open = recall();
choose({});
if (open) jumpTo(open);
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || $("sample").open || document.activeElement === $("search")) return;
  event.preventDefault();
  $("search").focus();
});
document.documentElement.dataset.ready = "true"; // for tests: everything above has run
