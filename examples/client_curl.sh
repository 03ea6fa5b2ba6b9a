#!/bin/sh
# Send an image and a question to `visualglm serve` with curl: sh client_curl.sh IMAGE QUESTION (without quotes in it)
set -eu
url="${VISUALGLM_URL:-http://127.0.0.1:8080}"
model="${VISUALGLM_MODEL:-visualglm-mini}"
image="$(base64 < "$1" | tr -d '\n')"
curl --silent --show-error --fail-with-body "$url/v1/chat/completions" \
  -H "Authorization: Bearer ${VISUALGLM_KEY:-none}" -H "Content-Type: application/json" -d @- <<END
{"model": "$model", "messages": [{"role": "user", "content": [
  {"type": "image_url", "image_url": {"url": "data:image/png;base64,$image"}},
  {"type": "text", "text": "$2"}]}]}
END
echo
