// Explains an answer: draws the map of a word over the image, and says whether the map holds.

import { ApiError, explainAnswer } from "./api.js";
import { blobUrl, dataUrl } from "./images.js";
import { text } from "./texts.js";
import { find, make } from "./view.js";

const HEAT = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]]; // inferno, from weak to strong
const OPACITY = 0.65;
const WHOLE = ""; // the key of the whole answer

let shown = null; // request, abort controller, and the explanation of each word

/** Open the dialog for an answer; `body` is the request without its image. */
export async function openExplanation(blob, body) {
  const [dialog, image] = [find("#explain-dialog"), find("#explain-dialog img")];
  const own = shown = { body, found: new Map(), controller: null };
  find("#words").replaceChildren();
  draw();
  image.src = blobUrl(blob);
  dialog.showModal();
  await image.decode().catch(() => {});
  find(".map").style.setProperty("--ratio", image.naturalWidth / image.naturalHeight || 1);
  own.body = { ...body, image: await dataUrl(blob) };
  if (own === shown) await show(WHOLE);
}

/** Cancel what is being computed when the dialog is closed. */
export function closeExplanation() {
  shown?.controller?.abort();
  shown = null;
}

async function show(word) {
  const own = shown;
  own.controller?.abort();
  const controller = own.controller = new AbortController();
  for (const button of find("#words").children) button.setAttribute("aria-pressed", String(button.value === word));
  draw(own.found.get(word));
  if (own.found.has(word)) return;
  try {
    const found = await explainAnswer({ ...own.body, ...(word && { word }) }, controller.signal);
    own.found.set(word, found);
    if (shown !== own || own.controller !== controller) return;
    if (word === WHOLE) drawWords(found);
    draw(found);
  } catch (error) {
    if (error.name !== "AbortError" && shown === own) drawFailure(error);
  }
}

function drawWords({ words, answer }) {
  const names = [...new Set(words.map((word) => word.text))].filter((name) => name !== answer);
  find("#words").replaceChildren(...[WHOLE, ...names].map((name) => {
    const button = make("button", { type: "button", value: name, textContent: name || text("wholeAnswer"), onclick: () => show(name) });
    button.setAttribute("aria-pressed", String(name === WHOLE));
    return button;
  }));
}

/** Draw an explanation, or without one that it is being computed. */
function draw(found) {
  const { area, low, high, exceeds_chance: holds } = found?.deletion ?? {};
  const values = { area: signed(area), low: signed(low), high: signed(high) };
  const figure = text("deletion").replace(/\{(\w+)\}/g, (_, name) => values[name]);
  find("#explain-figure").textContent = found ? `${figure} ${holds ? text("holds") : ""}` : text("explaining");
  find("#explain-wait").hidden = Boolean(found);
  find("#explain-warning").hidden = !found || holds;
  find("#explain-warning").textContent = text("noBetter");
  find("#explain-dialog .map").classList.toggle("waiting", !found);
  if (found) drawMap(found.explained.map, found.explained.text);
}

function drawFailure(error) {
  const kind = error instanceof ApiError ? error.kind : "other";
  find("#explain-figure").textContent = "";
  find("#explain-wait").hidden = true;
  find("#explain-warning").hidden = false;
  find("#explain-warning").textContent = [text(`errors.${kind}`), error.detail].filter(Boolean).join(" ");
}

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value ?? 0).toFixed(2)}`;

/** Draw a map, one pixel for each patch; the browser scales it to the image and smooths it. */
function drawMap(map, name) {
  const canvas = find("#explain-dialog canvas");
  [canvas.width, canvas.height] = [map[0].length, map.length];
  const strongest = Math.max(...map.flat());
  const pixels = map.flat().flatMap((value) => [...colour(value / strongest), 255 * OPACITY]);
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels), canvas.width), 0, 0);
  canvas.setAttribute("aria-label", `${text("explainTitle")} ${name}`);
}

function colour(weight) {
  const place = weight * (HEAT.length - 1);
  const [below, above] = [HEAT[Math.floor(place)], HEAT[Math.ceil(place)]];
  return below.map((value, channel) => value + (above[channel] - value) * (place % 1));
}
