// Draws messages, dialogues, images and examples. Text of people and of the model is only ever set as text.

import { blobUrl } from "./images.js";
import { text } from "./texts.js";

export const find = (selector) => document.querySelector(selector);

/** An element with properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A button with an icon of index.html and a name for screen readers. */
export function iconButton(icon, label, onclick) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${icon}`);
  svg.append(use);
  const button = make("button", { type: "button", className: "quiet", title: label, onclick }, svg);
  button.setAttribute("aria-label", label);
  return button;
}

/** A small image that opens large. */
export function thumbnail(blob) {
  const label = text("image");
  const button = make("button", { type: "button", className: "thumbnail", title: label, onclick: () => enlarge(blob) });
  button.setAttribute("aria-label", label);
  button.append(make("img", { src: blobUrl(blob), alt: "" }));
  return button;
}

function enlarge(blob) {
  find("#image-dialog img").src = blobUrl(blob);
  find("#image-dialog img").alt = text("image");
  find("#image-dialog").showModal();
}

/** Draw all messages; `actions` has edit(message), retry(), copy(message) and explain(message). */
export function drawMessages(dialogue, actions) {
  const log = find("#messages");
  const atEnd = isAtEnd();
  log.replaceChildren(...dialogue.messages.map((message, place) => {
    const isLast = place === dialogue.messages.length - 1;
    return message.role === "user" ? drawQuestion(message, dialogue, actions) : drawAnswer(message, isLast, dialogue, actions);
  }));
  log.setAttribute("aria-busy", String(Boolean(dialogue.writing)));
  find("#start").hidden = dialogue.messages.length > 0;
  log.hidden = dialogue.messages.length === 0;
  drawImages(dialogue.messages.flatMap(({ images }) => images));
  if (atEnd || dialogue.writing) scrollToEnd();
}

function drawQuestion(message, dialogue, actions) {
  const tools = make("div", { className: "tools" }, iconButton("copy", text("copy"), () => actions.copy(message)));
  if (!dialogue.writing) tools.append(iconButton("edit", text("edit"), () => actions.edit(message)));
  return make("article", { className: "question" },
    make("h3", { className: "hidden", textContent: text("you") }),
    make("div", { className: "bubble" },
      message.images.length ? make("div", { className: "thumbnails" }, ...message.images.map(thumbnail)) : null,
      make("p", { textContent: message.text })),
    tools);
}

function drawAnswer(message, isLast, dialogue, actions) {
  const isWriting = message === dialogue.writing || message.isLive;
  const article = make("article", { className: "answer", id: `answer-${message.order}` },
    make("h3", { className: "hidden", textContent: "VisualGLM" }),
    make("p", { className: isWriting ? "said writing" : "said", textContent: message.text, hidden: !message.text && !isWriting }));
  if (message.error) article.append(drawError(message.error));
  else if (message.state !== "done" && !isWriting) article.append(make("p", { className: "note", textContent: text("stopped") }));
  if (message.reason === "length") article.append(make("p", { className: "note", textContent: text("cut") }));
  if (message.note) article.append(make("p", { className: "note", textContent: text(message.note) }));
  if (isWriting) return article;
  const tools = make("div", { className: "tools" });
  if (message.text) tools.append(iconButton("copy", text("copy"), () => actions.copy(message)));
  if (dialogue.explanation(message)) {
    const button = iconButton("explain", text("explain"), () => actions.explain(message));
    button.append(text("explain"));
    tools.append(button);
  }
  if (isLast && !dialogue.writing) {
    tools.append(iconButton("retry", text(message.error ? "tryAgain" : "retry"), () => actions.retry()));
  }
  article.append(tools);
  return article;
}

function drawError({ kind, detail }) {
  const notice = make("div", { className: "error" }, make("p", { textContent: text(`errors.${kind}`) }));
  if (detail) notice.append(make("small", { lang: "en", textContent: detail }));
  return notice;
}

/** Show a longer answer without drawing everything again. */
export function drawPiece(message) {
  const said = find(`#answer-${CSS.escape(message.order)} .said`);
  const atEnd = isAtEnd();
  if (said) said.textContent = message.text;
  if (atEnd) scrollToEnd();
}

function isAtEnd() {
  const log = find("#messages");
  return log.scrollHeight - log.scrollTop - log.clientHeight < 60;
}

export function scrollToEnd() {
  find("#messages").scrollTop = find("#messages").scrollHeight;
}

function drawImages(blobs) {
  const pane = find("#images");
  pane.hidden = blobs.length === 0;
  document.body.classList.toggle("with-images", blobs.length > 0);
  pane.replaceChildren(...blobs.map(thumbnail));
}

/** Draw the images of the next question. */
export function drawAttached(blobs, remove) {
  find("#attached").replaceChildren(...blobs.map((blob, place) =>
    make("li", {}, thumbnail(blob), iconButton("close", text("remove"), () => remove(place)))));
}

/** Draw the list of dialogues. */
export function drawDialogues(records, current, open, remove) {
  find("#no-dialogues").hidden = records.length > 0;
  find("#dialogues").replaceChildren(...records.map((record) => {
    const title = make("button", { type: "button", className: "title", textContent: record.title || text("dialogue"), onclick: () => open(record) });
    if (record.id === current) title.setAttribute("aria-current", "true");
    return make("li", {}, title, iconButton("trash", text("deleteOne"), () => remove(record)));
  }));
}

/** Draw the examples as images with a question in the page's language. */
export function drawExamples(choose) {
  find("#examples").replaceChildren(...Object.entries(text("examples")).map(([name, question]) =>
    make("li", {}, make("button", { type: "button", onclick: () => choose(name, question) },
      make("img", { src: `/web/examples/${name}.png`, alt: "", width: 96, height: 96 }),
      make("span", { textContent: question })))));
}
