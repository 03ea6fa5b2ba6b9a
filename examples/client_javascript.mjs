// Send an image and a question to `visualglm serve` and stream the answer: node client_javascript.mjs IMAGE QUESTION
import { readFile } from "node:fs/promises";

const [image, question] = process.argv.slice(2);
const base = process.env.VISUALGLM_URL ?? "http://127.0.0.1:8080";
const headers = { "Content-Type": "application/json", Authorization: `Bearer ${process.env.VISUALGLM_KEY ?? "none"}` };
const url = `data:image/png;base64,${(await readFile(image)).toString("base64")}`;
const content = [{ type: "image_url", image_url: { url } }, { type: "text", text: question }];
const model = (await (await fetch(`${base}/v1/models`, { headers })).json()).data[0].id;
const body = JSON.stringify({ model, messages: [{ role: "user", content }], stream: true });
const reply = await fetch(`${base}/v1/chat/completions`, { method: "POST", headers, body });
if (!reply.ok) throw new Error((await reply.json()).error.message);

let rest = "";
for await (const bytes of reply.body.pipeThrough(new TextDecoderStream())) {
  const events = (rest + bytes).split("\n\n");
  rest = events.pop();
  for (const event of events) {
    const data = event.replace(/^data: /, "");
    if (data !== "[DONE]") process.stdout.write(JSON.parse(data).choices[0]?.delta.content ?? "");
  }
}
console.log();
