"""Read files that somebody else wrote in bounded time and memory, and replace files atomically."""
