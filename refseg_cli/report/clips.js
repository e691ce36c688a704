// A phrase of a clip, frame by frame: a strip of all frames with their masks, and the way from one to the next.

const STRIP_HEIGHT = 68; // pixels of a frame in the strip
const clipOf = (sample) => data.pictures[sample.picture][3];
const frameOf = (sample) => data.pictures[sample.picture][4];
const trackName = (sample) => JSON.stringify([sample.split, clipOf(sample), sample.sentId]);
const tracks = new Map(); // what is asked of a clip -> its samples, frame by frame
let strip = null; // {track, frames} in sight: samples, and for each {button, canvas, pixels}

for (const sample of samples.filter(clipOf)) {
  if (!tracks.has(trackName(sample))) tracks.set(trackName(sample), []);
  tracks.get(trackName(sample)).push(sample);
}
for (const track of tracks.values()) track.sort((a, b) => frameOf(a) - frameOf(b));

const trackOf = (sample) => (clipOf(sample) ? tracks.get(trackName(sample)) : [sample]);

// To a neighbouring frame of the clip, or, of a picture, to a neighbouring sample.
function stepFrame(by) {
  const track = trackOf(chosen[position]);
  if (track.length < 2) return step(by);
  const next = track[track.indexOf(chosen[position]) + by];
  if (next) jumpTo(next);
}

function showStrip(sample) {
  const track = trackOf(sample);
  $("strip").hidden = $("clip-keys").hidden = track.length < 2;
  if (track.length < 2) return;
  if (strip?.track !== track) {
    strip = { track, frames: track.map(stripFrame) };
    $("strip").replaceChildren(...strip.frames.map((frame) => frame.button));
    for (const frame of strip.frames) stripWatch.observe(frame.button);
  }
  const current = track.indexOf(sample);
  strip.frames.forEach(({ button }, at) => button.setAttribute("aria-current", `${at === current}`));
  const { offsetLeft, offsetWidth } = strip.frames[current].button;
  $("strip").scrollLeft = offsetLeft - ($("strip").clientWidth - offsetWidth) / 2;
}

function stripFrame(sample) {
  const picture = pictureOf(sample);
  const width = Math.round((STRIP_HEIGHT * picture.width) / picture.height);
  const dots = Math.min(2, window.devicePixelRatio);
  const canvas = el("canvas", { width: width * dots, height: STRIP_HEIGHT * dots });
  const button = el("button", { "aria-label": `Frame ${frameOf(sample)}, IoU ${sample.iou.toFixed(2)}`, onclick: () => jumpTo(sample) },
    el("img", { src: picture.src, alt: "", loading: "lazy", decoding: "async" }), canvas);
  button.style.width = `${width}px`;
  button.style.height = `${STRIP_HEIGHT}px`;
  return { sample, button, canvas, pixels: null };
}

// Masks are decoded when their frame comes in sight: a clip may have hundreds.
const stripWatch = new IntersectionObserver((entries) => {
  for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
    stripWatch.unobserve(target);
    const frame = strip.frames.find(({ button }) => button === target);
    if (frame) masksOf(frame.sample).then((masks) => soon(() => decodeFrame(frame, masks)), complain);
  }
});

function decodeFrame(frame, masks) {
  const { width, height } = pictureOf(frame.sample);
  frame.pixels = classes(masks, width, height);
  paintFrame(frame);
}

function paintFrame(frame) {
  const { width, height } = pictureOf(frame.sample);
  if (frame.pixels && frame.canvas.isConnected) paint(frame.canvas, frame.pixels, width, height, VIEWS[view]);
}

function repaintStrip() {
  for (const frame of strip?.frames ?? []) soon(() => paintFrame(frame));
}
