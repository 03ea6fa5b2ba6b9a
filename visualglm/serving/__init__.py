"""One model for many clients over HTTP.

`app.py` puts it together: `middleware/` around `api/`, which hands jobs to `engine/`; `web/` is the page. The other
files here are what the APIs share: the body, images by URL, model ids, errors, events.
"""
