// The AI SDK with @ai-sdk/openai, whose default is the Responses API, and its chat model.
import { readFileSync } from "node:fs";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, streamText } from "ai";

const [url, image, question, following] = process.argv.slice(2);
const provider = createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
const shown = { type: "image", image: readFileSync(image), mediaType: "image/png" };
const messages = [{ role: "user", content: [shown, { type: "text", text: question }] }];
const answers = [];
const followed = [];
for (const model of [provider("visualglm-mini"), provider.chat("visualglm-mini")]) {
  const plain = await generateText({ model, messages, maxRetries: 0 });
  let streamed = "";
  for await (const piece of streamText({ model, messages, maxRetries: 0 }).textStream) streamed += piece;
  answers.push(plain.text, streamed);
  const turns = [...messages, ...plain.response.messages, { role: "user", content: following }];
  followed.push((await generateText({ model, messages: turns, maxRetries: 0 })).text);
}
const errorOf = async (settings) => {
  try {
    await generateText({ model: provider("visualglm-mini"), maxRetries: 0, ...settings });
  } catch (error) {
    return [error.name, JSON.parse(error.responseBody).error.code];
  }
};
const errors = {
  too_long: await errorOf({ prompt: "long ".repeat(5000) }),
  model: await errorOf({ model: provider("gpt-4o"), prompt: "?" }),
};
console.log(JSON.stringify({ answers, followed, errors }));
