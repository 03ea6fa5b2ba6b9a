"""One model for many callers: the engine, OpenAI's API, upstream's `POST /`, the web page, and their guard."""
