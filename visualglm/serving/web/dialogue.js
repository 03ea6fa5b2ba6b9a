// The dialogue on screen: its messages, the answer that is being written, and what is sent to the API.

import { ApiError, streamAnswer } from "./api.js";
import { dataUrl } from "./images.js";
import * as store from "./store.js";

export const MAX_IMAGES = 16; // the server's limit for one request
const SAVE_INTERVAL = 500; // milliseconds between two writes of an answer that grows

/** `messages` have role, text, images (blobs), state ("done", "writing", "stopped", "failed"), and error or reason. */
export class Dialogue {
  constructor(onChange, onPiece, onStoreError) {
    Object.assign(this, { onChange, onPiece, onStoreError });
    this.start();
  }

  /** Begin a new dialogue, which is stored with its first question. */
  start() {
    this.stop();
    this.record = { id: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`, title: "", updated: 0 };
    this.messages = [];
    this.remember();
  }

  /** Show a stored dialogue. */
  async open(record) {
    this.stop();
    this.record = record;
    this.messages = [];
    this.remember();
    await this.reload();
  }

  remember() {
    sessionStorage.setItem("opened", this.record.id);
  }

  /** Read the messages again, now or once this tab's answer is whole; `isLive`: another tab has just changed some. */
  async reload(isLive = false) {
    this.isOutdated = Boolean(this.writing);
    if (this.isOutdated) return;
    const { id } = this.record;
    const found = await store.listMessages(id).catch(this.onStoreError) ?? [];
    if (id !== this.record.id || this.writing) return;
    this.messages = found.map((message) => ({ ...message, isLive: isLive && message.state === "writing" }));
    this.onChange();
  }

  get lastFailed() {
    return this.messages.at(-1)?.state === "failed";
  }

  /** Add a question, and write its answer. It takes the place of one that failed, or of `edited` and what follows. */
  async ask(text, images, options, edited = null) {
    const from = edited ? this.messages.indexOf(edited) : this.lastFailed ? this.messages.length - 2 : this.messages.length;
    await this.cutFrom(from);
    const question = this.add("user", text, images);
    if (from === 0) this.record.title = text.slice(0, 80);
    await this.write(this.add("assistant", "", []), options, [question]);
  }

  /** Write the last answer again. */
  async retry(options) {
    const answer = this.messages.at(-1);
    Object.assign(answer, { text: "", error: null, reason: null });
    await this.write(answer, options, []);
  }

  /** End the answer that is being written; what there is of it stays. */
  stop() {
    this.controller?.abort();
  }

  add(role, text, images) {
    const order = Math.max(Date.now(), (this.messages.at(-1)?.order ?? 0) + 1);
    const message = { id: `${this.record.id}-${order}-${Math.random()}`, dialogue: this.record.id, order, role, text, images, state: "done" };
    this.messages.push(message);
    return message;
  }

  /** The image of an answer and the request that explains it, or null unless its dialogue begins with its only image. */
  explanation(answer) {
    const turns = requestTurns(this.messages.slice(0, this.messages.indexOf(answer) + 1));
    const images = turns.flatMap((turn) => turn.images);
    if (answer.state !== "done" || images.length !== 1 || turns[0].images.length !== 1 || turns.at(-1).answer !== answer.text) return null;
    const history = turns.slice(0, -1).map((turn) => [turn.text, turn.answer]);
    return { image: images[0], body: { question: turns.at(-1).text, answer: answer.text, history } };
  }

  async cutFrom(place) {
    const removed = this.messages.splice(Math.max(place, 0));
    if (removed.length) await store.deleteMessages(this.record.id, removed.map(({ id }) => id)).catch(this.onStoreError);
  }

  async write(answer, options, changed) {
    const { record } = this;
    const controller = this.controller = new AbortController();
    const save = () => store.saveAnswer({ ...record, updated: Date.now() }, answer).catch(this.onStoreError);
    Object.assign(answer, { state: "writing", model: options.model });
    this.writing = answer;
    const before = this.messages.slice(0, this.messages.indexOf(answer));
    this.onChange();
    await store.save({ ...record, updated: Date.now() }, [...changed, answer]).catch(this.onStoreError);
    let saved = Date.now();
    try {
      const body = { ...options, messages: await requestMessages(before) };
      answer.reason = await streamAnswer(body, controller.signal, (piece) => {
        answer.text += piece;
        this.onPiece(answer);
        if (Date.now() - saved > SAVE_INTERVAL) { saved = Date.now(); save(); }
      });
      answer.state = "done";
    } catch (error) {
      if (error.name !== "AbortError") {
        answer.error = error instanceof ApiError ? { kind: error.kind, detail: error.detail } : { kind: "other", detail: error.message };
      }
      answer.state = answer.error && !answer.text ? "failed" : "stopped";
    }
    if (this.writing === answer) this.writing = this.controller = null;
    await save();
    this.onChange(answer);
    if (this.isOutdated) await this.reload();
  }
}

/** The turns that are sent. The images of a question without an answer go to the next question. */
function requestTurns(messages) {
  const sent = [];
  let images = [];
  for (const [place, message] of messages.entries()) {
    if (message.role !== "user") continue;
    images.push(...message.images);
    const answer = messages[place + 1]?.role === "assistant" ? messages[place + 1].text : "";
    if (!answer && place < messages.length - 1) continue;
    sent.push({ text: message.text, images, answer });
    images = [];
  }
  while (sent.length > 1 && sent.reduce((sum, turn) => sum + turn.images.length, 0) > MAX_IMAGES) sent.shift();
  return sent;
}

/** Questions and answers in OpenAI's form. */
async function requestMessages(messages) {
  const parts = requestTurns(messages).map(async (turn) => [
    { role: "user", content: [...await Promise.all(turn.images.map(imagePart)), { type: "text", text: turn.text }] },
    ...(turn.answer ? [{ role: "assistant", content: turn.answer }] : []),
  ]);
  return (await Promise.all(parts)).flat();
}

const imagePart = async (blob) => ({ type: "image_url", image_url: { url: await dataUrl(blob) } });
