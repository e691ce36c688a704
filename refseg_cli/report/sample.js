// One sample, large: the picture with both masks, the counts, what else was asked of it, the model's maps.

const VIEWS = {
  Compare: COLORS,
  Prediction: [null, null, COLORS[MASK], COLORS[MASK]],
  Truth: [null, COLORS[TRUTH], null, COLORS[TRUTH]],
  Picture: [null, null, null, null],
};
let position = null; // of the open sample in `chosen`
let view = "Compare";
let drawn = null; // {canvas, pixels, width, height} of the open sample

function openSample(at) {
  position = at;
  if (!$("sample").open) $("sample").showModal();
  showSample(chosen[at]);
  remember();
}

function step(by) {
  const at = position + by;
  if (at >= 0 && at < chosen.length) openSample(at);
}

function showSample(sample) {
  $("position").textContent = `${whole.format(position + 1)} of ${whole.format(chosen.length)}`;
  // Not `disabled`, which would take the focus, and with it the keys, away from the dialog.
  $("previous").setAttribute("aria-disabled", `${position === 0}`);
  $("next").setAttribute("aria-disabled", `${position === chosen.length - 1}`);
  $("phrase").textContent = sample.text;
  $("verdict").replaceChildren(...verdict(sample));
  $("numbers").replaceChildren(...facts(sample));
  $("memberships").replaceChildren(...sample.slices.map((slice) => {
    const [group, name] = data.slices[slice];
    return el("button", { title: "Show all of these", onclick: () => leaveFor(slice) }, el("span", {}, group), ` ${name}`);
  }));
  $("siblings").replaceChildren(...siblings(sample));
  showStrip(sample);
  showPicture(sample);
  showMaps(sample);
  document.querySelector(".body").scrollTop = 0;
  if (position + 1 < chosen.length) new Image().src = pictureOf(chosen[position + 1]).src;
}

function verdict(sample) {
  const failed = sample.failure !== RIGHT;
  return [el("strong", {}, `IoU ${sample.iou.toFixed(3)}`), failed ? " · " : "",
    failed ? el("span", { class: "failed" }, FAILURE_NAMES[sample.failure]) : "",
    failed ? el("span", { class: "note" }, ` ${FAILURE_TEXTS[sample.failure]}`) : ""];
}

function facts(sample) {
  const entries = [
    ["targets", sample.targets === 0 ? "none: nothing fits the phrase" : `${sample.targets}`],
    ["predicted", sample.predicted ? count(sample.predicted, "pixel") : "no target"],
    ["truth", count(sample.target, "pixel")],
    ["in both", count(sample.intersection, "pixel")],
    ["in either", count(sample.union, "pixel")],
    ["p(target)", sample.pTarget === null ? null : sample.pTarget.toFixed(3)],
    ["clip, frame", clipOf(sample) ? `${clipOf(sample)}, ${frameOf(sample)}` : null],
    ["split", data.splits[sample.split]],
    ["ref, sentence", `${sample.refId}, ${sample.sentId}`],
  ];
  return entries.filter(([, value]) => value !== null).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
}

// The other phrases of the picture; one that the filters hide is still shown, and leaves them.
function siblings(sample) {
  const others = samplesOfPicture[sample.picture];
  if (others.length < 2) return [];
  const rows = others.map((other) => el("li", {}, el("span", { class: "iou" }, other.iou.toFixed(2)),
    el("button", { class: "link", "aria-current": other === sample ? "true" : null, onclick: () => jumpTo(other) }, other.text)));
  return [el("h3", {}, "Phrases of this picture"), el("ul", {}, ...rows)];
}

function jumpTo(sample) {
  if (!chosen.includes(sample)) choose({ text: "", split: null, slice: null, failure: null });
  openSample(chosen.indexOf(sample));
}

function leaveFor(slice) {
  $("sample").close();
  choose({ slice });
}

function showPicture(sample) {
  const picture = pictureOf(sample);
  const { width, height } = picture;
  const canvas = el("canvas");
  $("stage").replaceChildren(el("img", { src: picture.src, alt: `Picture for: ${sample.text}` }), canvas);
  $("stage").style.aspectRatio = `${width} / ${height}`;
  $("stage").style.maxWidth = `calc(72vh * ${width / height})`;
  const shown = $("stage").clientWidth * window.devicePixelRatio;
  [canvas.width, canvas.height] = [Math.round(shown), Math.round((shown * height) / width)];
  drawn = null;
  masksOf(sample).then((masks) => {
    if (!canvas.isConnected) return;
    drawn = { canvas, pixels: classes(masks, width, height), width, height };
    repaint();
  }, complain);
}

function repaint() {
  for (const button of $("views").children) button.setAttribute("aria-pressed", `${button.textContent === view}`);
  if (drawn) paint(drawn.canvas, drawn.pixels, drawn.width, drawn.height, VIEWS[view]);
}

function showMaps(sample) {
  $("maps").replaceChildren();
  mapsOf(sample).then((maps) => {
    if (chosen[position] === sample) $("maps").replaceChildren(...maps.map((map) => mapPanel(map, pictureOf(sample))));
  }, complain);
}

function look(name) {
  view = name;
  repaint();
  repaintStrip();
}

function setUpSample() {
  $("views").append(...Object.keys(VIEWS).map((name) => el("button", { "aria-pressed": `${name === view}`, onclick: () => look(name) }, name)));
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => $("sample").close());
  $("sample").addEventListener("click", (event) => event.target === $("sample") && $("sample").close());
  $("sample").addEventListener("close", () => {
    const last = position;
    position = null;
    remember();
    cards.get(last)?.firstChild.focus();
  });
  $("sample").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const action = {
      ArrowRight: () => stepFrame(1), j: () => step(1), ArrowLeft: () => stepFrame(-1), k: () => step(-1),
      Home: () => openSample(0), End: () => openSample(chosen.length - 1),
    }[event.key] ?? (Object.keys(VIEWS)[event.key - 1] && (() => look(Object.keys(VIEWS)[event.key - 1])));
    if (!action) return;
    event.preventDefault();
    action();
  });
}
