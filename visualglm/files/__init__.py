"""Read untrusted files in bounded time and memory, and replace files atomically."""
