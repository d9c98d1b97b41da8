// Which image: one of the test set, an upload, or a drawing.

import { Refused, get, newest, send } from "./api.js";
import { byId, make, picture } from "./dom.js";
import { choose, classes, onChange, state } from "./state.js";
import { startDrawing } from "./draw.js";

const COUNT = 12;
const AS_IT_IS = ["image/png", "image/jpeg", "image/bmp"];
const LARGEST_SIDE = 1024;
let source = "test";
let forced = false; // drawing is shown only because there are no test images
let start = 0;
let file = null;
const latest = newest(0);

export function startPicker(trouble) {
  for (const name of ["test", "upload", "draw"]) {
    byId(`source-${name}`).addEventListener("change", () => showSource(name));
  }
  byId("test-index").addEventListener("change", (event) => chooseTest(Number(event.target.value)));
  byId("test-previous").addEventListener("click", () => page(start - COUNT));
  byId("test-next").addEventListener("click", () => page(start + COUNT));
  byId("test-random").addEventListener("click", () => {
    const index = Math.floor(Math.random() * (state.described?.test_images ?? 1));
    page(index - (index % COUNT));
    chooseTest(index);
  });
  byId("file").addEventListener("change", (event) => upload(event.target.files[0], trouble));
  byId("invert").addEventListener("change", () => file && upload(file, trouble));
  startDropping(trouble);
  startDrawing((blob) => submit(blob, false, trouble));
  onChange((changes) => {
    if (changes.described) loaded(changes.described, "image" in changes);
    if ("image" in changes) mark();
  });
}

function settle(name, because) {
  byId(`source-${name}`).checked = true;
  if (because) byId("image-card").open = true; // there is nothing to attack until one is chosen
  showSource(name);
  forced = because;
}

function showSource(name) {
  source = name;
  forced = false;
  for (const one of ["test", "upload", "draw"]) byId(`from-${one}`).hidden = one !== name;
  if (name === "test" && state.described?.test_images) chooseTest(Number(byId("test-index").value));
}

/** A run is loaded; `others` says that its test images are not those of the run before. */
function loaded(described, others) {
  byId("test-note").textContent = described.test_fault;
  byId("source-test").disabled = described.test_images === 0;
  byId("test-index").max = Math.max(described.test_images - 1, 0);
  if (others) {
    const first = state.image?.test ?? 0;
    start = first - (first % COUNT);
    byId("test-index").value = first;
  }
  if (described.test_images) page(start);
  else byId("thumbnails").replaceChildren();
  if (!described.test_images && source === "test") settle("draw", true);
  else if (described.test_images && forced && !state.image?.pixels) settle("test", false);
  if (state.image?.pixels && state.image.pixels.length !== lengthOf(described.run)) choose({ image: null });
}

function lengthOf(name) {
  const run = state.shelf.runs.find((one) => one.name === name);
  return 4 * Math.ceil((run.channels * run.height * run.width) / 3);
}

function page(wanted) {
  const total = state.described?.test_images ?? 0;
  start = Math.max(0, Math.min(wanted, total - 1));
  start -= start % COUNT;
  latest(async (signal) => {
    const found = await get("/api/tests", { run: state.run, start, count: COUNT }, signal);
    byId("thumbnails").replaceChildren(...found.images.map((one) => thumbnail(one)));
    mark();
  });
}

function thumbnail(one) {
  const name = classes()[one.label];
  const press = () => chooseTest(one.index);
  return make(
    "button",
    { type: "button", "data-index": one.index, onclick: press, title: name },
    picture(one.picture, `${one.index}, ${name}`),
  );
}

function chooseTest(index) {
  const last = Number(byId("test-index").max); // also while another run of the same dataset is being loaded
  const whole = Math.max(0, Math.min(Math.round(index) || 0, last));
  byId("test-index").value = whole;
  if (whole < start || whole >= start + COUNT) page(whole);
  choose({ image: { test: whole } });
}

function mark() {
  for (const button of byId("thumbnails").children) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.index) === state.image?.test));
  }
}

function startDropping(trouble) {
  const drop = byId("drop");
  const over = (event) => {
    event.preventDefault();
    drop.classList.toggle("over", event.type === "dragover");
  };
  for (const name of ["dragover", "dragleave", "drop"]) drop.addEventListener(name, over);
  drop.addEventListener("drop", (event) => upload(event.dataTransfer.files[0], trouble));
  for (const name of ["dragover", "drop"]) {
    window.addEventListener(name, (event) => event.preventDefault()); // a miss must not leave the page
  }
}

async function upload(chosen, trouble) {
  if (!chosen) return;
  file = chosen;
  byId("drop-note").textContent = chosen.name;
  await submit(chosen, byId("invert").checked, trouble);
}

async function submit(content, invert, trouble) {
  try {
    const run = state.run;
    const { pixels } = await send("/api/image", { run, invert }, await prepared(content));
    if (state.run === run) choose({ image: { pixels } });
    trouble("");
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    trouble(error.message);
  }
}

/** Types that the server does not read, and photographs too large for it, become a smaller PNG here. */
async function prepared(content) {
  if (AS_IT_IS.includes(content.type) && content.size <= state.shelf.upload_bytes) return content;
  let bitmap;
  try {
    bitmap = await createImageBitmap(content);
  } catch {
    return content; // the server says what is wrong with it
  }
  const scale = Math.min(1, LARGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(Math.max(1, bitmap.width * scale), Math.max(1, bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: "image/png" });
}
