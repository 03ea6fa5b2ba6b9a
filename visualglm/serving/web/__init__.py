"""The web page: static HTML, CSS and ES modules, a client of `/v1` like any other."""
