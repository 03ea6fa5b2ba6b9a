// Calls of the server's API: the models, a streamed answer, and its explanation.

export class ApiError extends Error {
  /** `kind` names a text in texts.js, `detail` is the server's own sentence. */
  constructor(kind, detail = "") {
    super(detail || kind);
    this.kind = kind;
    this.detail = detail;
  }
}

export const apiKey = {
  get: () => sessionStorage.getItem("key") ?? "",
  set: (key) => sessionStorage.setItem("key", key),
};

function headers() {
  const key = apiKey.get();
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, { headers: headers(), ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("offline");
  }
  if (!response.ok) throw explain(response.status, (await response.json().catch(() => ({}))).error ?? {});
  return response;
}

/** What an error of the API is for the page. vLLM gives no code for images and lengths, so its sentence decides. */
function explain(status, { message = "", code }) {
  const kinds = { 401: "key", 404: "model", 413: "large", 408: "offline", 429: "busy", 501: "unexplained", 502: "offline", 503: "busy", 504: "offline" };
  if (kinds[status]) return new ApiError(kinds[status], message);
  if (status >= 500) return new ApiError("server", message);
  if (code === "invalid_image") return new ApiError("image", message);
  if (/too long|too many|does not fit|context length|characters|longer than/i.test(message)) return new ApiError("long", message);
  return new ApiError(/image/i.test(message) ? "image" : "other", message);
}

/** The models that a request may name. */
export async function listModels() {
  return (await (await request("/v1/models")).json()).data;
}

/** Explain an answer: its words with their maps, and a deletion curve. */
export async function explainAnswer(body, signal) {
  return (await request("/v1/explain", { method: "POST", body: JSON.stringify(body), signal })).json();
}

/** Ask for an answer, call `onText` with each piece of it, and return why it ended ("stop", "length"). */
export async function streamAnswer(body, signal, onText) {
  const response = await request("/v1/chat/completions", {
    method: "POST", body: JSON.stringify({ ...body, stream: true }), signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "", reason = null;
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      throw error.name === "AbortError" ? error : new ApiError("cut");
    }
    if (part.done) throw new ApiError("cut");
    const lines = (buffer + part.value).split("\n");
    buffer = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return reason;
      const chunk = JSON.parse(data);
      if (chunk.error) throw explain(chunk.error.code === "busy" ? 503 : chunk.error.type === "server_error" ? 500 : 400, chunk.error);
      const choice = chunk.choices?.[0];
      reason = choice?.finish_reason ?? reason;
      if (choice?.delta?.content) onText(choice.delta.content);
    }
  }
}
