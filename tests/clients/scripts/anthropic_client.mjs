// Anthropic's JavaScript client: messages, plain and streamed, a follow-up, and errors.
import { readFileSync } from "node:fs";
import Anthropic from "@anthropic-ai/sdk";

const [url, image, question, following] = process.argv.slice(2);
const client = new Anthropic({ baseURL: url, apiKey: "none", maxRetries: 0 });
const source = { type: "base64", media_type: "image/png", data: readFileSync(image).toString("base64") };
const messages = [{ role: "user", content: [{ type: "image", source }, { type: "text", text: question }] }];
const given = { model: "visualglm-mini", max_tokens: 200 };
const plain = await client.messages.create({ ...given, messages });
const streamed = await client.messages.stream({ ...given, messages }).finalText();
const turns = [...messages, { role: "assistant", content: plain.content }, { role: "user", content: following }];
const errorOf = async (changed) => {
  try {
    await client.messages.create({ ...given, messages, ...changed });
  } catch (error) {
    return [error.constructor.name, error.error.error.code];
  }
};
console.log(
  JSON.stringify({
    answers: [plain.content[0].text, streamed],
    followed: [(await client.messages.create({ ...given, messages: turns })).content[0].text],
    errors: {
      too_long: await errorOf({ system: "long ".repeat(5000) }),
      model: await errorOf({ model: "claude" }),
    },
  }),
);
