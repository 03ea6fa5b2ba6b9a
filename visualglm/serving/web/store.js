// Dialogues in the browser's IndexedDB: one record for each message, so that two tabs add to a dialogue side by side.

const channel = new BroadcastChannel("visualglm");
let opening;

function open() {
  opening ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("visualglm", 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("dialogues", { keyPath: "id" });
      request.result.createObjectStore("messages", { keyPath: "id" }).createIndex("dialogue", "dialogue");
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opening;
}

async function transact(mode, work) {
  const transaction = (await open()).transaction(["dialogues", "messages"], mode);
  const result = work(transaction.objectStore("dialogues"), transaction.objectStore("messages"));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(result?.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

async function change(work, dialogue) {
  await transact("readwrite", work);
  channel.postMessage({ dialogue });
}

/** Call back with the id of a dialogue that another tab has changed (null: all of them). */
export const onChange = (call) => { channel.onmessage = ({ data }) => call(data.dialogue); };

/** All dialogues, the newest first. */
export async function listDialogues() {
  const found = await transact("readonly", (dialogues) => dialogues.getAll());
  return found.sort((one, other) => other.updated - one.updated);
}

/** A dialogue's messages in their order. */
export async function listMessages(dialogue) {
  const found = await transact("readonly", (_, messages) => messages.index("dialogue").getAll(dialogue));
  return found.sort((one, other) => one.order - other.order);
}

/** Write a dialogue and some of its messages. */
export const save = (dialogue, changed) => change((dialogues, messages) => {
  dialogues.put({ ...dialogue });
  for (const message of changed) messages.put({ ...message });
}, dialogue.id);

/** Write an answer that goes on, unless another tab has deleted its dialogue. */
export const saveAnswer = (dialogue, answer) => change((dialogues, messages) => {
  dialogues.get(dialogue.id).onsuccess = ({ target }) => {
    if (!target.result) return;
    dialogues.put({ ...dialogue });
    messages.put({ ...answer });
  };
}, dialogue.id);

/** Delete messages of a dialogue by their ids. */
export const deleteMessages = (dialogue, ids) => change((_, messages) => ids.forEach((id) => messages.delete(id)), dialogue);

/** Delete a dialogue with its messages. */
export const deleteDialogue = (dialogue) => change((dialogues, messages) => {
  dialogues.delete(dialogue);
  messages.index("dialogue").getAllKeys(dialogue).onsuccess = ({ target }) => target.result.forEach((id) => messages.delete(id));
}, dialogue);

/** Delete everything. */
export const deleteAll = () => change((dialogues, messages) => { dialogues.clear(); messages.clear(); }, null);
