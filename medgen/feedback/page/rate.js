"use strict";
// One image large (or two), rated by keyboard. Pixels come as stored values, so that window and level are set here.

const byId = (id) => document.getElementById(id);
const ARRAYS = { uint8: Uint8Array, int8: Int8Array, uint16: Uint16Array, int16: Int16Array, uint32: Uint32Array,
  int32: Int32Array, float32: Float32Array, float64: Float64Array };
const AHEAD = 2;       // items that are fetched before they are shown
const NEIGHBOURS = 4;  // slices around the shown one that are fetched too
const OUTLINE = [[88, 224, 230], [255, 196, 64], [236, 110, 173], [140, 220, 100], [170, 150, 255]];

let start;             // facts of the session
let shown;             // the item on the page
let views = [];        // a view a side
let aspect = 0;        // the one that the next key rates
let busy = false;      // a rating is on its way to the disk, or an image onto the page
let underway = null;   // the aspect of that rating
let waiting = [];      // keys typed meanwhile, for the next aspects of the image that is seen
let masks = true;
const items = new Map();
const pixels = new Map();

async function ask(path, body) {
  const request = body === undefined ? {} : { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  let answer;
  try {
    answer = await fetch(path, request);
  } catch {
    throw new Error("medgen rate does not answer; start it again, and open the new address: nothing rated is lost");
  }
  if (!answer.ok) throw new Error(await answer.text());
  return answer;
}

function once(kept, key, make) {
  if (!kept.has(key)) kept.set(key, make().catch((error) => { kept.delete(key); throw error; }));
  return kept.get(key);
}

const itemAt = (position) => once(items, position, async () => (await ask(`item/${position}`)).json());

function sliceOf(item, side, slice) {
  return once(pixels, `${item.position}/${side}/${slice}`, async () => {
    const facts = item.sides[side], place = `${item.position}/${side}/${slice}`;
    const [values, mask] = await Promise.all([
      ask(`pixels/${place}`).then((answer) => answer.arrayBuffer()),
      facts.masks ? ask(`mask/${place}`).then((answer) => answer.arrayBuffer()) : null,
    ]);
    return { values: new ARRAYS[facts.type](values), mask: mask && new Uint8Array(mask) };
  });
}

// What is fetched for later must not hold up what is shown now.
const afterPaint = (work) => requestAnimationFrame(() => setTimeout(work));

async function fetchAhead(position) {
  for (let next = position; next < Math.min(position + 1 + AHEAD, start.total); next++) {
    const item = await itemAt(next);
    await Promise.all(item.sides.map((facts, side) => sliceOf(item, side, facts.slices >> 1)));
  }
  for (const key of items.keys()) if (Math.abs(key - position) > AHEAD + 1) items.delete(key);
  for (const key of pixels.keys()) if (Math.abs(parseInt(key) - position) > AHEAD + 1) pixels.delete(key);
}

class View {
  constructor(item, side) {
    this.item = item;
    this.side = side;
    this.facts = item.sides[side];
    this.slice = this.facts.slices >> 1;
    this.figure = document.createElement("figure");
    this.canvas = this.figure.appendChild(document.createElement("canvas"));
    this.caption = this.figure.appendChild(document.createElement("figcaption"));
    this.reset();
    this.listen();
  }

  reset() {
    [this.low, this.high] = this.facts.window;
    this.zoom = 1;
    this.x = this.y = 0;  // of the middle of the image from the middle of the canvas, in screen pixels
  }

  listen() {
    const canvas = this.canvas;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (event.ctrlKey || event.shiftKey || this.facts.slices === 1) this.zoomBy(event.deltaY + event.deltaX < 0 ? 1.15 : 1 / 1.15);
      else this.go(this.slice + Math.sign(event.deltaY));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      if (!event.buttons) return;
      if (event.shiftKey || event.buttons === 4) {
        this.x += event.movementX;
        this.y += event.movementY;
        this.draw();
      } else {
        const step = (this.facts.window[1] - this.facts.window[0]) / 400;
        const width = Math.max(this.high - this.low + event.movementX * step, step);
        const level = (this.high + this.low) / 2 + event.movementY * step;
        for (const view of views) view.setWindow(level - width / 2, level + width / 2);
      }
    });
    canvas.addEventListener("dblclick", () => { this.reset(); this.draw(); });
  }

  setWindow(low, high) {
    [this.low, this.high] = [low, high];
    this.draw();
  }

  zoomBy(factor) {
    this.zoom = Math.min(Math.max(this.zoom * factor, 0.5), 40);
    this.draw();
  }

  go(slice) {
    this.slice = Math.min(Math.max(slice, 0), this.facts.slices - 1);
    this.draw();
  }

  async draw() {
    const slice = this.slice;
    const data = await sliceOf(this.item, this.side, slice);
    if (slice !== this.slice) return;  // the wheel was faster
    const [, height, width] = this.facts.shape;
    const picture = new OffscreenCanvas(width, height);
    picture.getContext("2d").putImageData(this.colours(data, width, height), 0, 0);
    const ratio = window.devicePixelRatio, box = this.figure.getBoundingClientRect();
    this.canvas.width = Math.round(box.width * ratio);
    this.canvas.height = Math.round(box.height * ratio);
    const stretch = this.facts.stretch;
    const scale = Math.min(this.canvas.width / width, this.canvas.height / (height * stretch)) * this.zoom;
    const context = this.canvas.getContext("2d");
    context.imageSmoothingEnabled = scale < 4;
    context.imageSmoothingQuality = "high";
    const w = width * scale, h = height * scale * stretch;
    context.drawImage(picture, (this.canvas.width - w) / 2 + this.x * ratio, (this.canvas.height - h) / 2 + this.y * ratio, w, h);
    const level = (this.low + this.high) / 2, round = (value) => Number(value.toPrecision(4));
    const channels = this.facts.shape[0];
    const place = (this.facts.slices > 1 ? `slice ${slice + 1} of ${this.facts.slices} · ` : "")
      + (channels === 1 || channels === 3 ? "" : `channel 1 of ${channels} · `);
    this.caption.textContent = `${place}level ${round(level)} width ${round(this.high - this.low)} ${this.facts.unit}`;
    this.figure.dataset.drawn = this.item.position;
    afterPaint(() => this.fetchAround(slice));
  }

  fetchAround(slice) {
    if (!views.includes(this)) return;
    for (let near = Math.max(slice - NEIGHBOURS, 0); near <= Math.min(slice + NEIGHBOURS, this.facts.slices - 1); near++)
      sliceOf(this.item, this.side, near).catch(() => {});
  }

  colours({ values, mask }, width, height) {
    const { scale, offset, shape, masks: names } = this.facts;
    const image = new ImageData(width, height), size = width * height, channels = shape[0];
    const gain = 255 * scale / (this.high - this.low), bias = 255 * (offset - this.low) / (this.high - this.low);
    for (let i = 0; i < size; i++) {
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = values[(channels === 3 ? c * size : 0) + i] * gain + bias;
      image.data[4 * i + 3] = 255;
    }
    if (mask && masks && names) {
      const at = (row, column) => row < 0 || column < 0 || row >= height || column >= width ? 0 : mask[row * width + column];
      for (let row = 0; row < height; row++) for (let column = 0; column < width; column++) {
        const own = at(row, column);
        const edge = own && (at(row - 1, column) !== own || at(row + 1, column) !== own || at(row, column - 1) !== own || at(row, column + 1) !== own);
        if (edge) image.data.set(OUTLINE[(own - 1) % OUTLINE.length], 4 * (row * width + column));
      }
    }
    return image;
  }
}

// What an image was asked to show is told once it was said whether it is real.
async function reveal() {
  const told = await (await ask(`item/${shown.position}`)).json();
  const outlined = told.sides.some((facts) => facts.masks);
  if (outlined) for (const key of pixels.keys()) if (parseInt(key) === shown.position) pixels.delete(key);
  shown.sides.forEach((facts, side) => Object.assign(facts, told.sides[side]));
  if (outlined) await Promise.all(views.map((view) => view.draw()));
}

async function show(position) {
  waiting = [];
  if (position >= start.total) return finish();
  const item = await itemAt(position);
  shown = item;
  views = item.sides.map((_, side) => new View(item, side));
  byId("images").replaceChildren(...views.map((view) => view.figure));
  aspect = start.aspects.findIndex((name) => !(name in item.given));
  if (aspect < 0) aspect = 0;
  tell();
  byId("condition").scrollTop = 0;
  await Promise.all(views.map((view) => view.draw()));
  afterPaint(() => fetchAhead(position).catch(() => {}));
}

function finish() {
  shown = undefined;
  views = [];
  const words = document.createElement("p");
  words.className = "finished";
  words.textContent = "All rated. You can close this page and end medgen rate with Ctrl-C.";
  byId("images").replaceChildren(words);
  byId("aspects").replaceChildren();
  byId("condition").replaceChildren();
  byId("windows").replaceChildren();
  count(start.total);
}

function count(done) {
  byId("progress").max = start.total;
  byId("progress").value = done;
  byId("count").textContent = `${done} of ${start.total}`;
}

function pairs(list, entries) {
  list.replaceChildren(...entries.flatMap(([name, value]) => {
    const term = document.createElement("dt"), text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value;
    text.dir = "auto";  // some languages run from right to left
    return [term, text];
  }));
}

// What can be said of an aspect: key, words, value.
function choices(name) {
  if (start.pairs) return [["ArrowLeft", "← left", 1], ["ArrowDown", "↓ tie", 0.5], ["ArrowRight", "→ right", 0]];
  if (name === start.real) return [["r", "R real", 1], ["s", "S synthetic", 0]];
  return [1, 2, 3, 4, 5].map((value) => [String(value), String(value), value]);
}

// What the image was asked to show; of two images, each part on which they differ for both.
function asked([left, right]) {
  if (!right) return left.condition;
  const [ours, theirs] = [left, right].map((facts) => new Map(facts.condition));
  return [...new Set([...ours.keys(), ...theirs.keys()])].flatMap((name) => ours.get(name) === theirs.get(name)
    ? [[name, ours.get(name)]] : [[`${name}, left`, ours.get(name) ?? "-"], [`${name}, right`, theirs.get(name) ?? "-"]]);
}

function tell() {
  pairs(byId("condition"), asked(shown.sides));
  byId("aspects").replaceChildren(...start.aspects.map((name, number) => {
    const box = document.createElement("section");
    box.className = "aspect";
    box.setAttribute("aria-current", number === aspect);
    box.appendChild(document.createElement("h2")).textContent = name === start.real ? "Is it real?" : name;
    const row = box.appendChild(document.createElement("div"));
    row.className = "choices";
    for (const [, words, value] of choices(name)) {
      const button = row.appendChild(document.createElement("button"));
      button.type = "button";
      button.textContent = words;
      button.setAttribute("aria-pressed", shown.given[name] === value);
      button.addEventListener("click", () => { aspect = number; rate(value); });
    }
    return box;
  }));
  byId("aspects").children[aspect].scrollIntoView({ block: "nearest" });
  const ct = shown.sides[0].unit === "HU" ? Object.entries(start.windows) : [];
  byId("windows").replaceChildren(...ct.map(([name, [low, high]]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.innerText = name;
    button.addEventListener("click", () => views.forEach((view) => view.setWindow(low, high)));
    return button;
  }));
}

// An image that could not be read is not rated.
const visible = () => shown && views.every((view) => view.figure.dataset.drawn);

async function rate(value) {
  if (busy || !visible()) return;
  busy = true;
  const name = underway = start.aspects[aspect];
  try {
    const told = await (await ask("rate", { position: shown.position, aspect: name, value })).json();
    shown.given[name] = value;
    underway = null;
    count(told.done);
    say("");
    const [next] = open();
    if (next) {
      if (name === start.real) await reveal();
      aspect = start.aspects.indexOf(next);
      tell();
    } else await show(told.position);
  } catch (error) {
    waiting = [];
    say(error.message, true);
  } finally {
    underway = null;
    goOn();
  }
}

// Lets keys rate again, first those that were typed meanwhile.
function goOn() {
  busy = false;
  while (waiting.length && !rateBy(waiting.shift()));
}

// The aspects that neither a rating nor one on its way says anything about.
const open = () => start.aspects.filter((name) => !(name in shown.given) && name !== underway);
const answers = (key) => start.aspects.some((name) => choices(name).some(([own]) => own === key));

// Rates the current aspect by a key; whether the key says anything about it.
function rateBy(key) {
  const choice = choices(start.aspects[aspect]).find(([own]) => own === key);
  if (choice) rate(choice[2]);
  return Boolean(choice);
}

async function undo() {
  if (busy) return;
  busy = true;
  try {
    const told = await (await ask("undo", {})).json();
    if (!told.undone) { say("There is nothing to take back."); return; }
    items.delete(told.position);
    count(told.done);
    await show(told.position);
    say("Taken back; rate it again.");
  } catch (error) {
    say(error.message, true);
  } finally {
    goOn();
  }
}

function say(text, bad = false) {
  byId("message").textContent = text;
  byId("message").className = bad ? "bad" : "";
}

document.addEventListener("keydown", (event) => {
  if (!start || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === "u" || key === "Backspace") { event.preventDefault(); undo(); return; }
  if (!shown) return;
  if (busy && answers(key)) {
    event.preventDefault();
    if (visible() && open().length > waiting.length) waiting.push(key);
    return;
  }
  if (rateBy(key)) { event.preventDefault(); return; }
  const act = {
    "+": () => views.forEach((view) => view.zoomBy(1.25)),
    "-": () => views.forEach((view) => view.zoomBy(1 / 1.25)),
    "0": () => views.forEach((view) => { view.reset(); view.draw(); }),
    "m": () => { masks = !masks; views.forEach((view) => view.draw()); },
    "PageUp": () => views.forEach((view) => view.go(view.slice - 1)),
    "PageDown": () => views.forEach((view) => view.go(view.slice + 1)),
  }[key];
  if (act) { event.preventDefault(); act(); }
});
window.addEventListener("resize", () => views.forEach((view) => view.draw()));
byId("undo").addEventListener("click", undo);

(async () => {
  try {
    start = await (await ask("start")).json();
    byId("rater").textContent = start.rater;
    const rated = start.pairs ? [["← ↓ →", "left is better, tie, right is better"]] : [["1 to 5", "worst to best"]];
    if (start.aspects.includes(start.real)) rated.push(["R, S", "real, synthetic"]);
    pairs(byId("keys"), [...rated, ["U", "undo"], ["drag", "width and level"], ["wheel", "slices; zoom for single images"],
      ["Ctrl + wheel, + and -", "zoom"], ["Shift + drag", "move"], ["0, double click", "as at first"], ["PageUp, PageDown", "slices"],
      ["M", "outlines of masks"]]);
    count(start.done);
    await show(start.position);
  } catch (error) {
    say(error.message, true);
  }
})();
