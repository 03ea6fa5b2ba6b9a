"""The HTTP APIs, a router each: OpenAI's chat and Responses, Anthropic's Messages, upstream's, explanations."""
