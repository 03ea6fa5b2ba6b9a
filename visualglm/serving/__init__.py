"""One model for many clients: the engine, OpenAI's API, upstream's `POST /`, the web page, and access control."""
