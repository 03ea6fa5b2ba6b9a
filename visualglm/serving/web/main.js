// Connects the page's elements with the dialogue, the images and the settings.

import { ApiError, apiKey, listModels } from "./api.js";
import { Dialogue, MAX_IMAGES } from "./dialogue.js";
import { closeExplanation, openExplanation } from "./explain.js";
import { ImageFileError, prepareImage, takeFrame } from "./images.js";
import * as settings from "./settings.js";
import * as store from "./store.js";
import { preferredLanguage, setLanguage, text } from "./texts.js";
import * as view from "./view.js";

const { find } = view;
const question = find("#question");
const previous = sessionStorage.getItem("opened"); // the dialogue that this tab showed before a reload
const draft = sessionStorage.getItem("draft") ?? "";
let models = [];
let attached = []; // blobs of the next question
let edited = null; // the question that is being edited

const dialogue = new Dialogue(drawDialogue, view.drawPiece, () => hint(text("notKept")));

function drawDialogue(ended = null) {
  view.drawMessages(dialogue, { edit, retry, copy, explain });
  find("#send").hidden = Boolean(dialogue.writing);
  find("#stop-answer").hidden = !dialogue.writing;
  find("#status").textContent = dialogue.writing ? text("answering") : "";
  question.placeholder = text(dialogue.messages.length ? "askMore" : "ask");
  if (ended) answerEnded(ended);
  drawList();
}

/** After an error the question is put back into the composer; a broken image is left out. */
function answerEnded(answer) {
  if (answer.error?.kind === "key") find("#key-dialog").showModal();
  if (answer.error?.kind === "model") loadModels();
  if (answer.state !== "failed" || question.value || attached.length) return;
  const failed = dialogue.messages.at(-2);
  if (failed) fillComposer(failed.text, answer.error.kind === "image" ? [] : failed.images);
}

async function drawList() {
  const records = await store.listDialogues().catch(() => []);
  view.drawDialogues(records, dialogue.record.id, openDialogue, (record) => removeDialogue(record));
}

async function openDialogue(record) {
  resetComposer();
  closeMenu();
  await dialogue.open(record);
  view.scrollToEnd();
}

async function removeDialogue(record) {
  await store.deleteDialogue(record.id);
  if (record.id === dialogue.record.id) newDialogue();
  drawList();
}

function newDialogue() {
  resetComposer();
  closeMenu();
  dialogue.start();
  drawDialogue();
  question.focus();
}

// The composer

function hint(message) {
  find("#hint").textContent = message;
  find("#hint").hidden = !message;
}

function fillComposer(words, images) {
  question.value = words;
  attached = [...images];
  drawComposer();
}

function resetComposer() {
  edited = null;
  hint("");
  fillComposer("", []);
}

function drawComposer() {
  view.drawAttached(attached, (place) => {
    attached.splice(place, 1);
    drawComposer();
    question.focus();
  });
  find("#editing").hidden = !edited;
  sessionStorage.setItem("draft", question.value);
  question.style.height = "auto";
  question.style.height = `${Math.min(question.scrollHeight, 200)}px`;
}

async function send() {
  const words = question.value.trim();
  if (dialogue.writing) return hint(text("waitOrStop"));
  if (!words) {
    question.focus();
    return hint(text("emptyQuestion"));
  }
  const [images, replaced] = [attached, edited];
  resetComposer();
  await dialogue.ask(words, images, await requestOptions(), replaced);
}

const chosenModel = () => models.find(({ id }) => id === find("#model").value) ?? models[0];

async function requestOptions() {
  if (!models.length) await loadModels(); // the server may have come back
  return { model: chosenModel()?.id ?? "visualglm", ...settings.sampling() };
}

function edit(message) {
  edited = message;
  fillComposer(message.text, message.images);
  question.focus();
}

async function retry() {
  const answer = dialogue.messages.at(-1);
  const options = await requestOptions();
  if (!answer.error) delete options.seed; // the same seed would give the same answer
  const temperature = options.temperature ?? (options.top_p === undefined ? chosenModel()?.sampling?.temperature : 1);
  const isWhole = answer.state === "done";
  if (isWhole && temperature === 0) {
    answer.note = "greedy";
    return drawDialogue();
  }
  const before = answer.text;
  if (answer.error) resetComposer();
  answer.note = null;
  await dialogue.retry(options);
  if (isWhole && answer.text === before) {
    answer.note = temperature === undefined ? "greedy" : "same"; // vLLM does not say its defaults
    drawDialogue();
  }
}

async function copy(message) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(message.text);
  } else { // without TLS a browser has no clipboard for pages of other machines
    const area = view.make("textarea", { value: message.text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  find("#status").textContent = text("copied");
}

function explain(answer) {
  const { image, body } = dialogue.explanation(answer);
  return openExplanation(image, { ...body, model: answer.model ?? chosenModel()?.id });
}

async function attach(files) {
  hint("");
  const failures = [];
  for (const file of files) {
    try {
      if (attached.length >= MAX_IMAGES) throw new ImageFileError("many", file.name);
      attached.push(await prepareImage(file));
    } catch (error) {
      const kind = error instanceof ImageFileError ? error.kind : "broken";
      failures.push(`${file.name} ${text(`imageErrors.${kind}`)}`);
    }
    drawComposer();
  }
  hint(failures.join(" "));
  question.focus();
}

async function chooseExample(name, words) {
  try {
    const response = await fetch(`/web/examples/${name}.png`);
    fillComposer(words, [await response.blob()]);
    await send();
  } catch {
    hint(text("errors.offline"));
  }
}

async function openCamera() {
  const isPhone = matchMedia("(pointer: coarse)").matches;
  if (isPhone || !navigator.mediaDevices) return find("#capture").click();
  const video = find("#camera-dialog video");
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    return hint(text("noCamera"));
  }
  find("#camera-dialog").showModal();
  return video.play();
}

function closeCamera() {
  const video = find("#camera-dialog video");
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
}

// Models, language, theme

async function loadModels() {
  try {
    models = await listModels();
  } catch (error) {
    if (error instanceof ApiError && error.kind === "key" && !find("#key-dialog").open) find("#key-dialog").showModal();
    return;
  }
  const wanted = settings.kept("model");
  const first = models.find(({ id }) => id === wanted) ?? models.find((card) => card.default) ?? models[0];
  find("#model").replaceChildren(...models.map(({ id }) => view.make("option", { value: id, textContent: id })));
  find("#model").value = first.id;
  drawModel();
}

function drawModel() {
  const card = chosenModel();
  find("#model-choice").hidden = models.length < 2;
  find("#model-name").textContent = card && models.length < 2 ? card.id : "VisualGLM";
  find("#model-name").title = card?.description ?? "";
  find("#banner").hidden = find("#badge").hidden = !card?.miniature;
  settings.showDefaults(card?.sampling);
}

function showLanguage(language) {
  setLanguage(language);
  find("#language").value = document.documentElement.lang;
  view.drawExamples(chooseExample);
  drawModel();
  drawComposer();
  drawDialogue();
}

function showTheme(theme) {
  document.documentElement.dataset.theme = theme;
  find("#theme").value = theme;
}

function openMenu() {
  document.body.classList.add("menu");
  find("#open-menu").setAttribute("aria-expanded", "true");
  find("#close-menu").focus();
}

function closeMenu() {
  document.body.classList.remove("menu");
  find("#open-menu").setAttribute("aria-expanded", "false");
}

function listen() {
  find("#composer").onsubmit = (event) => { event.preventDefault(); send(); };
  question.oninput = () => { hint(""); drawComposer(); };
  question.onkeydown = (event) => {
    const composes = event.isComposing || event.keyCode === 229; // Enter chooses a word of an input method
    if (event.key === "Enter" && !event.shiftKey && !composes) { event.preventDefault(); send(); }
  };
  find("#stop-answer").onclick = () => { dialogue.stop(); question.focus(); };
  find("#cancel-edit").onclick = () => { resetComposer(); question.focus(); };
  find("#attach").onclick = () => find("#files").click();
  for (const input of [find("#files"), find("#capture")]) {
    input.onchange = async () => { const files = [...input.files]; input.value = ""; await attach(files); };
  }
  find("#camera-open").onclick = openCamera;
  find("#camera-dialog").onclose = closeCamera;
  find("#explain-dialog").onclose = closeExplanation;
  find("#shoot").onclick = async () => {
    attached.push(await takeFrame(find("#camera-dialog video")));
    find("#camera-dialog").close();
    drawComposer();
  };
  for (const button of document.querySelectorAll("dialog .close")) button.onclick = () => button.closest("dialog").close();
  find("#new").onclick = find("#new-small").onclick = newDialogue;
  find("#open-menu").onclick = openMenu;
  find("#close-menu").onclick = find("#shade").onclick = closeMenu;
  find("#open-settings").onclick = () => find("#settings-dialog").showModal();
  find("#clear").onclick = () => find("#clear-dialog").showModal();
  find("#clear-confirmed").onclick = async () => { await store.deleteAll(); find("#clear-dialog").close(); newDialogue(); };
  find("#key-form").onsubmit = (event) => {
    event.preventDefault();
    apiKey.set(find("#key").value.trim());
    find("#key").value = "";
    find("#key-dialog").close();
    loadModels();
  };
  find("#model").onchange = () => { settings.keep("model", find("#model").value); drawModel(); };
  find("#language").onchange = () => { settings.keep("language", find("#language").value); showLanguage(find("#language").value); };
  find("#theme").onchange = () => { settings.keep("theme", find("#theme").value); showTheme(find("#theme").value); };
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
    if (document.body.classList.contains("menu")) closeMenu();
    else if (edited) resetComposer();
    else dialogue.stop();
  });
  window.addEventListener("focus", () => { if (!models.length && !find("#key-dialog").open) loadModels(); });
  listenForFiles();
}

function listenForFiles() {
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) { event.preventDefault(); attach(files); }
  });
  const hasFiles = (event) => event.dataTransfer.types.includes("Files");
  let depth = 0; // of elements that the dragged file has entered
  const show = (entered) => { depth = entered; find("#drop").hidden = depth <= 0; };
  document.addEventListener("dragenter", (event) => { if (hasFiles(event)) show(depth + 1); });
  document.addEventListener("dragleave", (event) => { if (hasFiles(event)) show(depth - 1); });
  document.addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return; // text goes into the text box
    event.preventDefault();
    show(0);
    attach([...event.dataTransfer.files]);
  });
}

async function start() {
  listen();
  settings.startSampling();
  showTheme(settings.kept("theme", "auto"));
  showLanguage(settings.kept("language") || preferredLanguage(navigator.languages));
  store.onChange((changed) => {
    if (changed === dialogue.record.id || changed === null) dialogue.reload(true);
    drawList();
  });
  const record = (await store.listDialogues().catch(() => [])).find(({ id }) => id === previous);
  if (record) await openDialogue(record);
  if (!question.value) fillComposer(draft, attached);
  await loadModels();
}

start();
