// OpenAI's JavaScript client: chat completions and responses, plain and streamed, a follow-up, and errors.
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const [url, image, question, following] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const dataUrl = `data:image/png;base64,${readFileSync(image).toString("base64")}`;
const model = (await client.models.list()).data[0].id;
const parts = [{ type: "image_url", image_url: { url: dataUrl } }, { type: "text", text: question }];
const messages = [{ role: "user", content: parts }];
const plain = (await client.chat.completions.create({ model, messages })).choices[0].message;
let streamed = "";
for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}
const items = [
  { role: "user", content: [{ type: "input_image", image_url: dataUrl }, { type: "input_text", text: question }] },
];
const whole = await client.responses.create({ model, input: items });
let events = "";
for await (const event of await client.responses.create({ model, input: items, stream: true })) {
  if (event.type === "response.output_text.delta") events += event.delta;
}
const next = { role: "user", content: following };
const errorOf = async (call) => {
  try {
    await call();
  } catch (error) {
    return [error.constructor.name, error.code];
  }
};
const tooLong = [{ role: "user", content: "long ".repeat(5000) }];
console.log(
  JSON.stringify({
    answers: [plain.content, streamed, whole.output_text, events],
    followed: [
      (await client.chat.completions.create({ model, messages: [...messages, plain, next] })).choices[0].message.content,
      (await client.responses.create({ model, input: [...items, ...whole.output, next] })).output_text,
    ],
    errors: {
      too_long: await errorOf(() => client.chat.completions.create({ model, messages: tooLong })),
      model: await errorOf(() => client.chat.completions.create({ model: "gpt-4o", messages })),
    },
  }),
);
