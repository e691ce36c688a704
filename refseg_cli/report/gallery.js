// The samples: filters, order, and a grid that holds only the cards in sight.

const ORDERS = {
  worst: ["Worst first", (a, b) => a.index - b.index],
  best: ["Best first", (a, b) => b.index - a.index],
  pixels: ["Most wrong pixels", (a, b) => b.union - b.intersection - (a.union - a.intersection)],
  unsure: ["Least sure of a target", (a, b) => Math.abs((a.pTarget ?? 1) - 0.5) - Math.abs((b.pTarget ?? 1) - 0.5)],
  data: ["As in the data", (a, b) => a.split - b.split || a.place - b.place],
};
const CARD = { least: 190, gap: 12, below: 76, ratio: 0.72 }; // pixels; ratio: of the thumbnail's height to its width

const lowered = samples.map((sample) => sample.text.toLowerCase());
const state = { text: "", split: null, slice: null, failure: null, order: "worst" };
let chosen = samples; // what passes the filters, in order
const cards = new Map(); // position in `chosen` -> element
let layout = null; // {columns, width, thumb, row}

function passes(sample, withFailure) {
  return (state.split === null || sample.split === state.split) &&
    (state.slice === null || sample.slices.includes(state.slice)) &&
    (!withFailure || state.failure === null || sample.failure === state.failure) &&
    state.words.every((word) => lowered[sample.index].includes(word));
}

function refresh() {
  state.words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
  const others = samples.filter((sample) => passes(sample, false));
  chosen = others.filter((sample) => state.failure === null || sample.failure === state.failure).sort(ORDERS[state.order][1]);
  const mean = chosen.reduce((sum, sample) => sum + sample.iou, 0) / chosen.length;
  $("count").textContent = `${whole.format(chosen.length)} of ${whole.format(samples.length)}${chosen.length ? `, gIoU ${(100 * mean).toFixed(1)}` : ""}`;
  $("nothing").hidden = chosen.length > 0;
  showFailures(others);
  cards.forEach((card) => card.remove());
  cards.clear();
  arrange();
  remember();
}

function showFailures(others) {
  const counts = FAILURE_NAMES.map(() => 0);
  for (const sample of others) counts[sample.failure]++;
  const focused = document.activeElement?.dataset?.failure;
  $("failures").replaceChildren(...FAILURE_NAMES.map((name, failure) =>
    el("button", { type: "button", title: FAILURE_TEXTS[failure], "aria-pressed": `${state.failure === failure}`, "data-failure": failure,
      onclick: () => choose({ failure: state.failure === failure ? null : failure }) }, name, el("b", {}, whole.format(counts[failure])))));
  if (focused !== undefined) $("failures").children[focused].focus();
}

// Change filters and go to the top of the list, if it is out of sight.
function choose(changes) {
  Object.assign(state, changes);
  $("search").value = state.text;
  $("split").value = state.split ?? "";
  $("slice").value = state.slice ?? "";
  $("order").value = state.order;
  refresh();
  const top = $("samples").offsetTop - document.querySelector(".top").offsetHeight;
  if (window.scrollY > top || changes.slice !== undefined) window.scrollTo({ top, behavior: "instant" });
}

function arrange() {
  const width = $("grid").clientWidth;
  const columns = Math.max(1, Math.floor((width + CARD.gap) / (CARD.least + CARD.gap)));
  const each = (width - CARD.gap * (columns - 1)) / columns;
  const thumb = Math.round(each * CARD.ratio);
  layout = { columns, width: each, thumb, row: thumb + CARD.below + CARD.gap };
  $("grid").style.height = `${Math.ceil(chosen.length / columns) * layout.row}px`;
  cards.forEach((card) => card.remove());
  cards.clear();
  showVisible();
}

function showVisible() {
  const top = -$("grid").getBoundingClientRect().top;
  const spare = window.innerHeight / 2;
  const first = Math.max(0, Math.floor((top - spare) / layout.row) * layout.columns);
  const last = Math.min(chosen.length, Math.ceil((top + window.innerHeight + spare) / layout.row) * layout.columns);
  for (const [position, element] of cards) {
    if ((position < first || position >= last) && !element.contains(document.activeElement)) {
      element.remove();
      cards.delete(position);
    }
  }
  for (let position = first; position < last; position++) {
    if (!cards.has(position)) cards.set(position, card(position));
  }
}

function card(position) {
  const sample = chosen[position];
  const failed = sample.failure !== RIGHT;
  const element = el("div", { class: "cell", role: "listitem", "aria-setsize": chosen.length, "aria-posinset": position + 1 },
    el("button", { class: "card", "data-position": position, onclick: () => openSample(position),
      "aria-label": `${sample.text}. IoU ${sample.iou.toFixed(2)}${failed ? `, ${FAILURE_NAMES[sample.failure]}` : ""}` },
      thumbnail(sample),
      el("div", { class: "phrase" }, sample.text),
      el("div", { class: "meta" }, el("span", { class: "iou" }, sample.iou.toFixed(2)),
        el("span", { class: failed ? "failed" : "" }, failed ? FAILURE_NAMES[sample.failure] : sample.targets === 0 ? "no target" : ""))));
  const button = element.firstChild;
  button.style.left = `${(position % layout.columns) * (layout.width + CARD.gap)}px`;
  button.style.top = `${Math.floor(position / layout.columns) * layout.row}px`;
  button.style.width = `${layout.width}px`;
  button.style.height = `${layout.row - CARD.gap}px`;
  $("grid").append(element);
  return element;
}

// Masks are painted a few at a time, the newest cards first, so that fast scrolling stays smooth.
const jobs = [];

function soon(job) {
  if (jobs.push(job) === 1) requestAnimationFrame(work);
}

function work() {
  const end = performance.now() + 8;
  while (jobs.length && performance.now() < end) jobs.pop()();
  if (jobs.length) requestAnimationFrame(work);
}

function thumbnail(sample) {
  const picture = pictureOf(sample);
  const room = { width: layout.width - 2, height: layout.thumb };
  const zoom = Math.min(room.width / picture.width, room.height / picture.height);
  const [width, height] = [picture.width * zoom, picture.height * zoom];
  const dots = Math.min(2, window.devicePixelRatio);
  const canvas = el("canvas", { width: Math.round(width * dots), height: Math.round(height * dots) });
  const image = el("img", { src: picture.src, alt: "", loading: "lazy", decoding: "async" });
  for (const element of [image, canvas]) {
    element.style.left = `${(room.width - width) / 2}px`;
    element.style.top = `${(room.height - height) / 2}px`;
    element.style.width = `${width}px`;
    element.style.height = `${height}px`;
  }
  masksOf(sample).then((masks) => soon(() => {
    if (canvas.isConnected) paint(canvas, classes(masks, picture.width, picture.height), picture.width, picture.height);
  }), complain);
  const thumb = el("div", { class: "thumb" }, image, canvas);
  thumb.style.height = `${layout.thumb}px`;
  return thumb;
}

function setUpFilters() {
  const option = (value, text) => el("option", { value }, text);
  $("split").append(option("", "All splits"), ...data.splits.map((name, n) => option(n, name)));
  $("split").hidden = data.splits.length < 2;
  const groups = [...new Set(data.slices.map(([group]) => group))];
  $("slice").append(option("", "All slices"), ...groups.map((group) => {
    const entries = data.slices.flatMap(([of, name], n) => (of === group ? [option(n, name)] : []));
    return el("optgroup", { label: group }, ...entries);
  }));
  $("slice").hidden = data.slices.length === 0;
  $("order").append(...Object.entries(ORDERS).map(([key, [name]]) => option(key, name)));
  const number = (value) => (value === "" ? null : Number(value));
  let typing;
  $("search").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => choose({ text: $("search").value }), 80);
  });
  $("split").addEventListener("change", () => choose({ split: number($("split").value) }));
  $("slice").addEventListener("change", () => choose({ slice: number($("slice").value) }));
  $("order").addEventListener("change", () => choose({ order: $("order").value }));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", (event) => {
    event.preventDefault();
    choose({ text: "", split: null, slice: null, failure: null, order: "worst" });
  });
  let waiting = false;
  window.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      showVisible();
    });
  }, { passive: true });
  new ResizeObserver(() => layout && Math.abs($("grid").clientWidth - (layout.columns * (layout.width + CARD.gap) - CARD.gap)) > 1 && arrange()).observe($("grid"));
}
