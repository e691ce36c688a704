// The page's data: the index at once; pictures, masks and maps when they are looked at.

const data = JSON.parse(document.getElementById("data").textContent);
const [FAILURE_NAMES, FAILURE_TEXTS] = [0, 1].map((i) => data.failures.map((failure) => failure[i]));
const RIGHT = FAILURE_NAMES.length - 1;
const MAP_PIECES_KEPT = 12; // the largest pieces, and looked at one by one

const samples = data.samples.map((row, index) => {
  const [text, split, picture, place, failure, iou, targets, pTarget, intersection, union, predicted, target, refId, sentId, slices, maps] = row;
  return { index, text, split, picture, place, failure, iou, targets, pTarget, intersection, union, predicted, target, refId, sentId, slices, maps };
});
const samplesOfPicture = data.pictures.map(() => []);
for (const sample of samples) samplesOfPicture[sample.picture].push(sample);

const pieces = new Map(); // name -> promise of its content
const expected = new Map(); // name -> what to call when its script hands it over

window.refsegPiece = (name, content) => expected.get(name)?.(content);

function piece(name) {
  if (!pieces.has(name)) pieces.set(name, load(name));
  return pieces.get(name);
}

function load(name) {
  const inlined = document.getElementById(name);
  if (inlined) return Promise.resolve(JSON.parse(inlined.textContent));
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    expected.set(name, resolve);
    script.onload = () => script.remove();
    script.onerror = () => reject(new Error(`${data.folder}/${name}.js is missing beside this page`));
    script.src = `${encodeURIComponent(data.folder)}/${name}.js`;
    document.head.append(script);
  });
}

const numbered = (kind, number) => `${kind}-${String(number).padStart(3, "0")}`;

async function masksOf(sample) {
  const per = data.masksPerPiece;
  return (await piece(numbered("masks", Math.floor(sample.index / per))))[sample.index % per];
}

async function mapsOf(sample) {
  if (!sample.maps) return [];
  const per = data.mapsPerPiece;
  const name = numbered("maps", Math.floor(sample.index / per));
  const content = piece(name);
  pieces.delete(name); // and in again, so that the Map's order is that of the last use
  pieces.set(name, content);
  const held = [...pieces.keys()].filter((key) => key.startsWith("maps-"));
  if (data.folder) held.slice(0, -MAP_PIECES_KEPT).forEach((key) => pieces.delete(key));
  return (await content)[sample.index % per];
}

function pictureOf(sample) {
  const [name, width, height] = data.pictures[sample.picture];
  return { src: data.folder ? `${encodeURIComponent(data.folder)}/${name}` : name, width, height };
}

// COCO's compressed run lengths: five bits a character, the sixth says "more"; from the fourth run on the difference
// to the run before the last. Runs go down the columns and begin outside the mask.
function runLengths(counts) {
  const runs = [];
  for (let at = 0; at < counts.length; ) {
    let run = 0, shift = 0, code;
    do {
      code = counts.charCodeAt(at++) - 48;
      run |= (code & 0x1f) << shift;
      shift += 5;
    } while (code & 0x20);
    if (code & 0x10 && shift < 32) run |= -1 << shift;
    if (runs.length > 2) run += runs[runs.length - 2];
    runs.push(run);
  }
  return runs;
}

const TRUTH = 1, MASK = 2; // bits of a pixel's class

// (width * height) down the columns: 0 outside, TRUTH, MASK, or both.
function classes([truth, mask], width, height) {
  const pixels = new Uint8Array(width * height);
  for (const [counts, bit] of [[truth, TRUTH], [mask, MASK]]) {
    let at = 0;
    runLengths(counts).forEach((run, n) => {
      if (n % 2) for (let p = at; p < at + run; p++) pixels[p] |= bit;
      at += run;
    });
  }
  return pixels;
}

const colorOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim().split(/\s+/).map(Number);
const COLORS = [null, colorOf("--missed"), colorOf("--extra"), colorOf("--both")];
const RIM = 2; // canvas pixels
const EDGE = [16, 16, 20, 210]; // around it, so that the rim is seen on a thing of its own colour
// What was missed is hatched, so that blue over a green thing is not taken for the green of both.
const opacity = (pixel, x, y) => (pixel !== TRUTH ? 125 : (x + y) % 8 < 3 ? 190 : 40);

// Draw the classes that `shown` has a colour for, at the canvas's own resolution.
function paint(canvas, pixels, width, height, shown = COLORS) {
  const [w, h] = [canvas.width, canvas.height];
  const context = canvas.getContext("2d");
  const image = context.createImageData(w, h);
  const columns = Array.from({ length: w }, (_, x) => Math.min(width - 1, Math.floor(((x + 0.5) * width) / w)) * height);
  const rows = Array.from({ length: h }, (_, y) => Math.min(height - 1, Math.floor(((y + 0.5) * height) / h)));
  const color = (x, y) => shown[pixels[columns[x] + rows[y]]];
  const differs = (x, y, far, from) =>
    (x >= far && color(x - far, y) !== from) || (x < w - far && color(x + far, y) !== from) ||
    (y >= far && color(x, y - far) !== from) || (y < h - far && color(x, y + far) !== from);
  for (let y = 0, at = 0; y < h; y++) {
    for (let x = 0; x < w; x++, at += 4) {
      const own = color(x, y);
      if (own) {
        image.data.set(own, at);
        image.data[at + 3] = differs(x, y, RIM, own) ? 255 : opacity(pixels[columns[x] + rows[y]], x, y);
      } else if (differs(x, y, 1, own)) image.data.set(EDGE, at);
    }
  }
  context.putImageData(image, 0, 0);
}
